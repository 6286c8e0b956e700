"""Reads the text of a page of a PDF document, line by line, with its form fields and annotations where they stand."""

from __future__ import annotations

from typing import NamedTuple

import pypdfium2 as pdfium

from workers.handlers.files._pdf_annotations import Fragment, list_visible, read_fragments
from workers.handlers.files._pdf_characters import Box, Line, count_orientations, open_text_page, read_lines, read_text


def read_page_text(document: pdfium.PdfDocument, number: int) -> str:
    """Return the text of page `number`, counted from 1, its lines separated by LF. Raises `PdfiumError`."""
    page = document[number - 1]
    try:
        with open_text_page(page) as text_page:
            visible = list_visible(document, page)
            if not visible and len(count_orientations(text_page)) < 2:
                return read_text(text_page)
            quarters = page.get_rotation() // 90
            lines = read_lines(page, text_page)
    finally:
        page.close()
    return insert_fragments(read_fragments(document, number, visible), lines, quarters)


class _Place(NamedTuple):
    """Where a fragment is inserted: into a line, before the character at `position`."""

    line: int
    position: int


def insert_fragments(fragments: list[Fragment], lines: list[Line], quarters: int = 0) -> str:
    """Return the text of the lines with each fragment next to what stands beside it.

    A fragment follows the nearest character to its left in a line that it overlaps in height. If there is none, it
    precedes the first character of such a line. Without such a line, it is a line of its own below the line above it.
    `quarters` is the clockwise rotation at which the lines are upright.
    """
    turned = [Line(line.text, [box.turn(quarters) for box in line.boxes]) for line in lines]
    inserted: dict[_Place, list[str]] = {}
    below: dict[int, list[str]] = {}
    for text, unturned in sorted(fragments, key=lambda fragment: _reading_order(fragment.box.turn(quarters))):
        box = unturned.turn(quarters)
        place = _find_place_beside(box, turned)
        if place is not None:
            inserted.setdefault(place, []).append(text)
        else:
            below.setdefault(_find_line_above(box, turned), []).append(text)
    result = list(below.get(-1, []))
    for number, line in enumerate(turned):
        result.append(
            _insert_into(
                line.text, {place.position: texts for place, texts in inserted.items() if place.line == number}
            )
        )
        result += below.get(number, [])
    return "\n".join(result if any(line.text for line in turned) else [part for part in result if part])


def _reading_order(box: Box) -> tuple[float, float]:
    return -box.top, box.left


def _find_place_beside(box: Box, lines: list[Line]) -> _Place | None:
    x, _ = box.middle
    after: list[tuple[float, _Place]] = []
    before: list[tuple[float, _Place]] = []
    for number, line in enumerate(lines):
        if line.bottom > box.top or line.top < box.bottom:
            continue
        for position, character in enumerate(line.boxes):
            middle_x, middle_y = character.middle
            if not box.bottom <= middle_y <= box.top:
                continue
            if middle_x < x:
                # Characters under the left part of a fragment count as to its left, at no distance.
                after.append((max(0.0, box.left - character.right), _Place(number, position + 1)))
            else:
                before.append((character.left - box.left, _Place(number, position)))
    if after:
        nearest = min(distance for distance, _ in after)
        # The topmost of the nearest: the label of a field of several lines stands beside its first.
        return min((place for distance, place in after if distance <= nearest + 1), key=lambda p: (p.line, -p.position))
    return min(before)[1] if before else None


def _find_line_above(box: Box, lines: list[Line]) -> int:
    """Return the number of the lowest line that stands above, -1 if there is none."""
    above = [
        (line.bottom, -number)
        for number, line in enumerate(lines)
        if line.boxes and (line.bottom + line.top) / 2 > box.top
    ]
    return -min(above)[1] if above else -1


def _insert_into(text: str, inserted: dict[int, list[str]]) -> str:
    result, done = "", 0
    for position in sorted(inserted):
        added = " ".join(inserted[position])
        result += text[done:position]
        result += (" " if result and not result[-1].isspace() else "") + added
        done = position
        rest = text[position:]
        if rest.strip():
            result += "\n" if "\n" in added else " " if not rest[0].isspace() else ""
    return result + text[done:]
