"""The child's side of `files.inspect` for text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.formats.encodings import NotText, find_encoding, read_text
from workers.formats.problems import unreadable_text


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Return the encoding of the text at `path`, and how many lines it has.

    Lines end with LF, CR or both; the last may lack its end. Raises `/problems/unreadable-text`.
    """
    try:
        encoding = find_encoding(request["path"], request["encoding"])
    except NotText as error:
        raise unreadable_text(error.reason) from None
    lines, last = 0, "\n"
    for piece in read_text(request["path"], encoding):
        if not piece:
            continue
        # CR and LF may stand at the end of one piece and the beginning of the next.
        lines += piece.count("\n") + piece.count("\r") - piece.count("\r\n") - (last == "\r" and piece[0] == "\n")
        last = piece[-1]
    return {
        "encoding": encoding.iana_name,
        "replaced_bytes": encoding.replaced_bytes,
        "lines": lines + (last not in "\r\n"),
    }
