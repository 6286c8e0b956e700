"""The child's side of `files.inspect` for text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.formats.encodings import find_encoding, iana_name, read_text


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Tell the encoding of the text at `path` and count its lines, which LF, CR or both end, but perhaps the last."""
    encoding = find_encoding(request["path"])
    lines, last = 0, "\n"
    for piece in read_text(request["path"], encoding, errors="replace"):
        if not piece:
            continue
        # CR and LF may stand on the two sides of a cut.
        lines += piece.count("\n") + piece.count("\r") - piece.count("\r\n") - (last == "\r" and piece[0] == "\n")
        last = piece[-1]
    return {"encoding": iana_name(encoding), "lines": lines + (last not in "\r\n")}
