"""Reads the characters of a PDFium text page, with or without their places."""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import pypdfium2 as pdfium
from pypdfium2 import raw

_HYPHEN_AT_LINE_END = 0xFFFE
"""What PDFium's text has in the place of a hyphen and the line end behind it, and for a character without meaning."""
_DROPPED = {ord(character): None for character in "\ufffe\x02\0\f"}
"""Characters that have no meaning in Unicode, and what would be taken for the end of a page."""
_SAMPLED_CHARACTERS = 200


class Box(NamedTuple):
    """A rectangle; `top` is above `bottom`."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def middle(self) -> tuple[float, float]:
        """The point in its middle."""
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2

    def contains(self, x: float, y: float) -> bool:
        """Return whether a point lies in it, its border included."""
        return self.left <= x <= self.right and self.bottom <= y <= self.top

    def turn(self, quarters: int) -> Box:
        """Return the box in the coordinates of a page that is rotated clockwise by so many quarters."""
        match quarters % 4:
            case 1:
                return Box(self.bottom, -self.right, self.top, -self.left)
            case 2:
                return Box(-self.right, -self.top, -self.left, -self.bottom)
            case 3:
                return Box(-self.top, self.left, -self.bottom, self.right)
            case _:
                return self


@dataclass
class Line:
    """A line of text with the box of each character; spaces that PDFium inserted have the box of what follows."""

    text: str = ""
    boxes: list[Box] = field(default_factory=list)

    @cached_property
    def bottom(self) -> float:
        """The lowest point of a character."""
        return min((box.bottom for box in self.boxes), default=0.0)

    @cached_property
    def top(self) -> float:
        """The highest point of a character."""
        return max((box.top for box in self.boxes), default=0.0)


def clean(text: str) -> str:
    """Return text with LF as its only line end, and without characters that have no meaning."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_DROPPED)


@contextmanager
def open_text_page(page: pdfium.PdfPage) -> Iterator[pdfium.PdfTextPage]:
    """Open a page's text in its reading order. The page stays rotated so that most of its text is upright.

    Of text that runs sideways in relation to the page's rotation, PDFium may return the lines from last to first.
    """
    text_page = page.get_textpage()
    try:
        orientations = count_orientations(text_page)
        rotation = orientations.most_common(1)[0][0] * 90 if orientations else page.get_rotation()
        if rotation != page.get_rotation():
            page.set_rotation(rotation)
            text_page.close()
            text_page = page.get_textpage()
        yield text_page
    finally:
        text_page.close()


def count_orientations(text_page: pdfium.PdfTextPage) -> Counter[int]:
    """Return how many characters of a sample are upright at each clockwise rotation of the page, in quarters."""
    count = text_page.count_chars()
    return Counter(
        quarters
        for index in range(0, count, max(1, count // _SAMPLED_CHARACTERS))
        if (quarters := _find_orientation(text_page, index)) is not None
    )


def _find_orientation(text_page: pdfium.PdfTextPage, index: int) -> int | None:
    if raw.FPDFText_IsGenerated(text_page, index):
        return None
    angle = raw.FPDFText_GetCharAngle(text_page, index)
    # Angles grow counter-clockwise, rotations clockwise.
    return -round(angle / (math.pi / 2)) % 4 if angle >= 0 else None


def read_text(text_page: pdfium.PdfTextPage) -> str:
    """Return the text of the page, lines separated by LF."""
    count = text_page.count_chars()
    # One more for the zero at the end. The text is in UTF-16, and an index in it counts two for a surrogate pair.
    units = (ctypes.c_ushort * (count + 1))()
    length = max(0, raw.FPDFText_GetText(text_page, 0, count, units) - 1)
    encoded = bytes(units)[: length * 2]
    text = encoded.decode("utf-16-le", errors="ignore")
    if "\ufffe" in text:
        hyphens = (_is_hyphen(text_page, index) for index in range(length) if units[index] == _HYPHEN_AT_LINE_END)
        first, *others = text.split("\ufffe")
        text = first + "".join(
            ("-\n" if is_hyphen else "") + part for is_hyphen, part in zip(hyphens, others, strict=True)
        )
    return clean(text)


def _is_hyphen(text_page: pdfium.PdfTextPage, text_index: int) -> bool:
    return bool(raw.FPDFText_IsHyphen(text_page, raw.FPDFText_GetCharIndexFromTextIndex(text_page, text_index)) == 1)


def read_lines(page: pdfium.PdfPage, text_page: pdfium.PdfTextPage) -> list[Line]:
    """Return the lines of the page with the box of every character, in the coordinates of the unrotated page.

    Text that is not upright at the page's rotation is read at its own, and stands where the page first has such text.
    """
    lines, found = _read_upright_lines(text_page, page.get_rotation() // 90)
    for quarters, line_number in sorted(found.items(), key=lambda item: -item[1]):
        page.set_rotation(quarters * 90)
        turned = page.get_textpage()
        try:
            block, _ = _read_upright_lines(turned, quarters)
            lines[line_number:line_number] = [part for line in block for part in _split_by_height(line, quarters)]
        finally:
            turned.close()
    return lines


def _read_upright_lines(text_page: pdfium.PdfTextPage, quarters: int) -> tuple[list[Line], dict[int, int]]:
    """Return the lines of upright text, and for each other orientation the number of lines before its first character."""
    lines: list[Line] = [Line()]
    found: dict[int, int] = {}
    inserted = ""
    for text, box, orientation in read_characters(text_page):
        if box is None:
            # PDFium inserts one line end at a time, so that a second one belongs to text that is not upright.
            is_line_end_due = lines[-1].text and not inserted.endswith("\n")
            inserted += text if text != "\n" or is_line_end_due else ""
        elif orientation not in (quarters, None):
            found.setdefault(orientation, len(lines) if lines[-1].text else len(lines) - 1)
            inserted = "\n" if lines[-1].text else ""
        else:
            for character in inserted + text:
                if character == "\n":
                    lines.append(Line())
                else:
                    lines[-1].text += character
                    lines[-1].boxes.append(box)
            inserted = ""
    return lines, found


def _split_by_height(line: Line, quarters: int) -> list[Line]:
    """Return the parts of a line that stand at different heights, which PDFium joins where most text is turned."""
    parts = [Line()]
    for character, box in zip(line.text, line.boxes, strict=True):
        upright = box.turn(quarters)
        before = parts[-1].boxes[-1].turn(quarters) if parts[-1].boxes else upright
        if not before.bottom <= upright.middle[1] <= before.top:
            parts.append(Line())
        parts[-1].text += character
        parts[-1].boxes.append(box)
    return [Line(part.text.strip(), _boxes_of_stripped(part)) for part in parts]


def _boxes_of_stripped(line: Line) -> list[Box]:
    start = len(line.text) - len(line.text.lstrip())
    return line.boxes[start : start + len(line.text.strip())]


def read_characters(text_page: pdfium.PdfTextPage) -> Iterator[tuple[str, Box | None, int | None]]:
    """Yield each character, or the text that stands for it, with its box and the rotation at which it is upright.

    Both are None for what PDFium inserted.
    """
    high = ""
    for index in range(text_page.count_chars()):
        unit = raw.FPDFText_GetUnicode(text_page, index)
        if 0xD800 <= unit < 0xDC00:
            high = chr(unit)
            continue
        character, high = high + chr(unit), ""
        if raw.FPDFText_IsGenerated(text_page, index) == 1:
            if character != "\r":
                yield character, None, None
            continue
        is_hyphen = unit == 2 and raw.FPDFText_IsHyphen(text_page, index) == 1
        text = "-\n" if is_hyphen else clean(character.encode("utf-16", "surrogatepass").decode("utf-16", "ignore"))
        if text:
            yield text, Box(*text_page.get_charbox(index, loose=True)), _find_orientation(text_page, index)
