"""Writes JSON: an array of objects, one row a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from workers.handlers.reports import _problems
from workers.handlers.reports._values import Column, dump_json, json_of


class JsonWriter:
    """Writes rows at once, and keeps none in memory."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column], title: str | None, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._names = [column.name for column in columns]
        self._size = 0
        self._empty = True

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows. Raises `/problems/report-too-large`."""
        lines = [
            dump_json({name: json_of(value) for name, value in zip(self._names, row, strict=True)}) for row in rows
        ]
        self._append((b"[\n" if self._empty else b",\n") + b",\n".join(lines))
        self._empty = False

    def finish(self) -> None:
        """Close the array."""
        self._append(b"[]\n" if self._empty else b"\n]\n")

    def _append(self, block: bytes) -> None:
        self._size += len(block)
        if self._size > self._max_bytes:
            raise _problems.format_too_large("JSON", self._max_bytes)
        self._file.write(block)
