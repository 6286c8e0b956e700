"""The errors of reading that several families share. Imports nothing heavy: limited children use it too."""

from __future__ import annotations

from workers.outcomes import Failed


def unreadable_table(detail: str) -> Failed:
    """Return the error of a file that cannot be read as a table; `detail` quotes nothing of it."""
    return Failed("/problems/unreadable-table", "Unreadable table", detail)


def unreadable_text() -> Failed:
    """Return the error of bytes that are not text in any known encoding."""
    return Failed("/problems/unreadable-text", "Unreadable text", "The file is not text in a known encoding.")
