"""JSON: an array of objects, one row a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from workers.handlers.reports import _limits, _problems
from workers.handlers.reports._values import Column, dump_json, json_of


class JsonWriter:
    """Writes rows as they come; holds none."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column], title: str | None) -> None:
        self._file = file
        self._names = [column.name for column in columns]
        self._convert: list[Callable[[Any], Any]] = [
            _parse_json if column.type == "JSON" else json_of for column in columns
        ]
        self._size = 0
        self._empty = True

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows. Raises `/problems/report-too-large`."""
        lines = [
            dump_json(
                {name: convert(value) for name, convert, value in zip(self._names, self._convert, row, strict=True)}
            )
            for row in rows
        ]
        self._append((b"[\n" if self._empty else b",\n") + b",\n".join(lines))
        self._empty = False

    def finish(self) -> None:
        """Close the array."""
        self._append(b"[]\n" if self._empty else b"\n]\n")

    def _append(self, block: bytes) -> None:
        self._size += len(block)
        if self._size > _limits.MAX_FORMAT_BYTES:
            raise _problems.report_too_large(
                "bytes", _limits.MAX_FORMAT_BYTES, f"As JSON, the report exceeds {_limits.MAX_FORMAT_BYTES:,} bytes."
            )
        self._file.write(block)


def _parse_json(value: str | None) -> Any:
    """Give a value of DuckDB's JSON type as what it says; DuckDB hands it over as text."""
    if value is None:
        return None
    try:
        return json_of(json.loads(value))
    except (ValueError, RecursionError):
        return value
