"""The child's side of `files.extract_text` for text files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.formats.encodings import Encoding, NotText, find_encoding, read_text
from workers.formats.problems import unreadable_text
from workers.handlers.files._errors import too_much_text
from workers.handlers.files._pages import choose_pages


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Write the text at `path` to `text_path` in UTF-8; `pages` chooses from it, `most_bytes` bounds it.

    In what is written, lines end with LF. Form feeds separate the pages. Returns the fields of the result. Raises
    `/problems/unreadable-text`, `/problems/no-such-page` and `/problems/output-too-large`.
    """
    try:
        encoding = find_encoding(request["path"], request["encoding"])
    except NotText as error:
        raise unreadable_text(error.reason) from None
    text = _read_bounded(request["path"], encoding, request["most_bytes"])
    pages = text.split("\f")
    chosen = choose_pages(request["pages"], len(pages))
    taken = text if request["pages"] is None else "\f".join(pages[number - 1] for number in chosen)
    encoded = taken.encode("utf-8", errors="replace")
    if len(encoded) > request["most_bytes"]:
        raise too_much_text(request["most_bytes"])
    Path(request["text_path"]).write_bytes(encoded)
    report_progress(100, f"{len(chosen)} of {len(chosen)}")
    return {
        "pages": len(chosen),
        "characters": len(taken),
        "encoding": encoding.iana_name,
        "replaced_bytes": encoding.replaced_bytes,
    }


def _read_bounded(path: str, encoding: Encoding, most_characters: int) -> str:
    """Return the text. Raises `/problems/output-too-large` for more characters than bytes are allowed."""
    pieces, characters = [], 0
    for piece in read_text(path, encoding):
        pieces.append(piece)
        characters += len(piece)
        # Two characters that end a line may become one, so that what is read may be twice what is written.
        if characters > 2 * most_characters:
            raise too_much_text(most_characters)
    return "".join(pieces).replace("\r\n", "\n").replace("\r", "\n")
