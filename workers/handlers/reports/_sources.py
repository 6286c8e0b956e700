"""Uploaded files as views of DuckDB."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import duckdb

from workers.formats.duckdb_sandbox import quote_identifier, quote_literal
from workers.formats.table_readers import find_csv_reader, find_exceeded_bytes, find_json_reader
from workers.handlers.reports import _problems
from workers.handlers.reports._engine_errors import explain

FOLDER = Path("sources")
BLOCK_BYTES = 1 << 20
WHOLE_SNIFF_BYTES = 256 << 20
"""Up to this size a file's column types are found from all of it, so that no later line can contradict them.

DuckDB holds the whole file in memory meanwhile, which counts against its limit.
"""
SNIFF_ROWS = 100_000
"""In a larger file, from so many rows."""

SEPARATORS = (",", ";", "\t", "|")
LARGEST_TRANSCODED_BYTES = 1 << 30
"""A file in another encoding than UTF-8 takes its size again, and more, of the scratch folder."""

Shape = Literal["csv", "json", "parquet"]


@dataclass(frozen=True)
class Source:
    """A source that lies ready to be read."""

    name: str
    path: Path
    """Relative to the working folder."""
    shape: Shape
    column_types: dict[str, str] = field(default_factory=dict)
    """Filled in by `create_view`."""


def prepare_source(name: str, path: Path, media_type: str) -> Source:
    """Lay a file ready under a path that shows its source's name, as UTF-8 if it is text.

    Raises `/problems/unreadable-table` for bytes that are neither Parquet nor text.
    """
    FOLDER.mkdir(exist_ok=True)
    if _is_parquet(path):
        return Source(name, _link(path, FOLDER / f"{name}.parquet"), "parquet")
    encoding = _find_encoding(name, path)
    shape: Shape = "json" if _is_json(path, encoding, media_type) else "csv"
    place = FOLDER / f"{name}.{shape}"
    if shape == "json":
        # DuckDB takes a byte order mark for a row that is no object, and so an array for a single row.
        encoding = _with_mark(path, encoding)
    if encoding == "utf-8":
        _link(path, place)
    elif path.stat().st_size > LARGEST_TRANSCODED_BYTES:
        raise _problems.unreadable_table(name, "text of more than 1 GiB must be UTF-8, without a byte order mark.")
    else:
        _transcode(name, path, encoding, place)
    if shape == "json" and _is_cut_array(place):
        raise _problems.unreadable_table(name, "its JSON array has no end.")
    return Source(name, place, shape)


def create_view(connection: duckdb.DuckDBPyConnection, source: Source) -> Source:
    """Make the view that bears the source's name, and give the source with its column types.

    Raises `/problems/unreadable-table`.
    """
    view = quote_identifier(source.name)
    try:
        connection.execute(f"CREATE VIEW {view} AS FROM {_find_reader(connection, source)}")
        described = connection.execute(f"DESCRIBE {view}").fetchall()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if (most_bytes := find_exceeded_bytes(error)) is not None:
            raise _problems.value_too_large(source.name, most_bytes) from error
        message = explain(error).message.replace(str(source.path), source.name)
        raise _problems.unreadable_table(source.name, message) from error
    if source.shape == "csv" and len(described) == 1:
        _refuse_ragged_lines(source, described[0][0])
    return replace(source, column_types={row[0]: row[1] for row in described})


def _refuse_ragged_lines(source: Source, only_column: str) -> None:
    """Raise `/problems/unreadable-table` for lines of unequal length, where DuckDB sees a single column.

    When no separator gives every line as many cells, or a quote is never closed, DuckDB takes whole lines for cells:
    nothing is lost, but nobody would find the columns by name.
    """
    separator = max(SEPARATORS, key=only_column.count)
    if separator not in only_column:
        return
    with source.path.open("r", encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=separator, strict=True)
        try:
            first = next(lines)
            for cells in lines:
                if cells and len(cells) != len(first):
                    raise _problems.unreadable_table(
                        source.name, f"line {lines.line_num} has {len(cells)} cells, and the first has {len(first)}."
                    )
        except csv.Error as error:
            raise _problems.unreadable_table(source.name, f"line {lines.line_num} is not CSV: {error}.") from error


def _find_reader(connection: duckdb.DuckDBPyConnection, source: Source) -> str:
    path = quote_literal(str(source.path))
    if source.shape == "parquet":
        return f"read_parquet({path})"
    sample = -1 if source.path.stat().st_size <= WHOLE_SNIFF_BYTES else SNIFF_ROWS
    if source.shape == "json":
        return find_json_reader(connection, source.path, f"sample_size = {sample}")
    # Left to itself, DuckDB skips leading lines and comments that do not fit the rest, and so loses rows in silence.
    return find_csv_reader(
        connection,
        f"{path}, sample_size = {sample}, nullstr = ['', 'NA'], skip = 0, comment = '', "
        """quote = '"', escape = '"', null_padding = false, ignore_errors = false""",
    )


def _link(path: Path, place: Path) -> Path:
    place.symlink_to(path.resolve())
    return place


def _is_parquet(path: Path) -> bool:
    """By the magic number at the file's start (Parquet format, File Format)."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _is_json(path: Path, encoding: str, media_type: str) -> bool:
    """By the name that it was given, or, for plain text, by its first value.

    Plain text is JSON if its first line begins with a bracket and is a value, or goes on in the next.
    """
    if "json" in media_type:
        return True
    if media_type != "text/plain":
        return False
    with path.open("r", encoding=_without_mark(encoding)) as file:
        start = file.read(BLOCK_BYTES).lstrip()
    if not start.startswith(("{", "[")):
        return False
    try:
        json.JSONDecoder().raw_decode(start)
    except ValueError:
        return len(start) > BLOCK_BYTES // 2
    return True


def _is_cut_array(path: Path) -> bool:
    """Whether a JSON array lacks its last bracket. One that is cut off behind a comma is whole to DuckDB."""
    with path.open("rb") as file:
        if not file.read(BLOCK_BYTES).lstrip().startswith(b"["):
            return False
        file.seek(max(0, path.stat().st_size - BLOCK_BYTES))
        return not file.read().rstrip().endswith((b"]", b"}"))


def _with_mark(path: Path, encoding: str) -> str:
    """Give `utf-8-sig` for UTF-8 that begins with a byte order mark."""
    with path.open("rb") as file:
        return "utf-8-sig" if encoding == "utf-8" and file.read(3) == codecs.BOM_UTF8 else encoding


def _without_mark(encoding: str) -> str:
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _find_encoding(name: str, path: Path) -> str:
    """Give `utf-8`, `utf-16`, `utf-32`, or `windows-1252` for what is none of them.

    UTF-16 and UTF-32 are known by their marks. Bytes that are not UTF-8 are taken for Windows-1252, as the Encoding
    Standard of WHATWG takes what calls itself Latin-1 (https://encoding.spec.whatwg.org/#names-and-labels).
    """
    with path.open("rb") as file:
        start = file.read(4)
        # The mark of UTF-32 begins with that of UTF-16.
        if start in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
            return "utf-32"
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        valid = True
        while block := file.read(BLOCK_BYTES):
            if b"\0" in block:
                raise _problems.unreadable_table(name, "it is neither text nor Parquet.")
            if valid:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    valid = False
        if valid:
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                valid = False
    return "utf-8" if valid else "windows-1252"


def _transcode(name: str, path: Path, encoding: str, place: Path) -> None:
    try:
        with place.open("w", encoding="utf-8", newline="") as out:
            for text in _decode_blocks(path, encoding):
                out.write(text)
    except UnicodeError as error:
        raise _problems.unreadable_table(name, f"its bytes are not {encoding.upper()}.") from error


def _decode_blocks(path: Path, encoding: str) -> Iterator[str]:
    with path.open("rb") as file:
        if encoding == "windows-1252":
            # Five bytes have no meaning in Python's table; the Encoding Standard gives them Latin-1's.
            while block := file.read(BLOCK_BYTES):
                yield codecs.charmap_decode(block, "strict", _WINDOWS_1252)[0]
            return
        decoder = codecs.getincrementaldecoder(encoding)()
        while block := file.read(BLOCK_BYTES):
            yield decoder.decode(block)
        yield decoder.decode(b"", final=True)


_WINDOWS_1252 = "".join(
    bytes([byte]).decode("latin-1" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "windows-1252") for byte in range(256)
)
