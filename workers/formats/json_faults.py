"""Finds the line and column at which a JSON file is not valid.

DuckDB counts lines otherwise, quotes the object that has a key twice, and accepts some of what RFC 8259 does not allow.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path

PIECE_CHARACTERS = 1 << 20
LONGEST_KEY_CHARACTERS = 100
_SPACE = re.compile(r"[ \t\r\n]*")
_HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


_ACCEPTED_BY_DUCKDB = re.compile(rb"(?i),[ \t\r\n]*[}\]]|[:\[,][ \t\r\n]*-?(?:nan|inf(?:inity)?)[ \t\r\n]*(?:[,}\]]|$)")
"""A comma behind the last element, and numbers that JSON does not have; the same may stand within a text."""
_TEXT_OR_NO_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN')


class _Duplicate(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _NoNumber(Exception):
    """`NaN` or `Infinity` stands in place of a number."""


class _Fault(Exception):
    """What is wrong, as the rest of a sentence."""


def find_json_fault(path: Path) -> str | None:
    """Return what is wrong with a JSON file in UTF-8, naming line and column or the record, or None.

    The file is an array, or values one after another, each on a line of its own or not. In a file of lines, a line at
    fault is named itself, and not the next one at which a parser would notice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = _Text(stream.read, PIECE_CHARACTERS)
            if first.peek() == "[" and not _is_lines(path):
                _check_array(first)
                return None
        if _is_lines(path):
            _check_lines(path)
        else:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                _check_values(_Text(stream.read, PIECE_CHARACTERS))
    except _Fault as fault:
        return str(fault)
    except RecursionError:
        return "its JSON is nested too deeply."
    return None


def may_be_accepted_though_invalid(path: Path) -> bool:
    """Return whether DuckDB may read a file that is not valid JSON: a trailing comma, or a number such as `NaN`, is in it."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _ACCEPTED_BY_DUCKDB.search(content) is not None


class _Invalid(_Fault):
    """The text is no valid JSON."""


class _Text:
    """A text that is read as far as its values reach."""

    def __init__(self, read: Callable[[int], str], piece_characters: int) -> None:
        self._read = read
        self._piece_characters = piece_characters
        self._text = read(piece_characters)
        self._at_end = len(self._text) < piece_characters
        self._position = 0
        self._lines_before = 0
        """How many lines ended in what was dropped, and how many characters of the last one were."""
        self._characters_before = 0

    def peek(self) -> str:
        """Return the next character that is no white space, or an empty text at the end."""
        while True:
            match = _SPACE.match(self._text, self._position)
            assert match is not None, "the pattern matches nothing too"
            self._position = match.end()
            if self._position < len(self._text) or self._at_end:
                return self._text[self._position : self._position + 1]
            self._read_on()

    def skip(self) -> None:
        """Pass over the character that `peek` returned."""
        self._position += 1

    def read_value(self, record: int) -> None:
        """Pass over one value. Raises `_Fault`."""
        while True:
            try:
                _, end = _decode(self._text, self._position, record)
            except json.JSONDecodeError as error:
                # Reading on helps where the fault is near the end of what was read, or where a string has no end yet.
                if not self._at_end and (
                    error.msg.startswith("Unterminated") or len(self._text) - error.pos < self._piece_characters // 2
                ):
                    self._read_on()
                    continue
                self._position = len(self._text) if error.msg.startswith("Unterminated") else error.pos
                raise self.fault() from None
            # A number may go on in what was not read yet.
            if end == len(self._text) and not self._at_end:
                self._read_on()
                continue
            self._position = end
            return

    def fault(self) -> _Invalid:
        """Return the error at the position."""
        if self._at_end and not self._text[self._position :].strip():
            return _Invalid("it is not valid JSON: it ends within a value.")
        return _not_valid(*self._count_place())

    def _count_place(self) -> tuple[int, int]:
        """Return the line and the column of the position, from 1."""
        passed = self._text[: self._position]
        lines = passed.count("\n") + passed.count("\r") - passed.count("\r\n")
        last = max(passed.rfind("\n"), passed.rfind("\r"))
        in_line = len(passed) - last - 1 if lines else self._characters_before + len(passed)
        return self._lines_before + lines + 1, in_line + 1

    def _read_on(self) -> None:
        line, column = self._count_place()
        self._lines_before, self._characters_before = line - 1, column - 1
        piece = self._read(max(self._piece_characters, len(self._text)))
        self._at_end = not piece
        self._text = self._text[self._position :] + piece
        self._position = 0


def _check_array(text: _Text) -> None:
    text.skip()
    try:
        _check_elements(text)
    except _Invalid as fault:
        if not text.peek():
            raise _Fault("its JSON array has no end.") from None
        raise fault
    if text.peek():
        raise text.fault()


def _check_elements(text: _Text) -> None:
    record = 0
    if text.peek() == "]":
        text.skip()
        return
    while True:
        record += 1
        text.read_value(record)
        match text.peek():
            case ",":
                text.skip()
                text.peek()
            case "]":
                text.skip()
                return
            case _:
                raise text.fault()


def _check_values(text: _Text) -> None:
    record = 0
    while text.peek():
        record += 1
        text.read_value(record)


def _check_lines(path: Path) -> None:
    for record, (number, line) in enumerate(_list_lines(path), start=1):
        position = 0
        while position < len(line):
            try:
                _, end = _decode(line, position, record)
            except json.JSONDecodeError as error:
                raise _not_valid(number, error.pos + 1) from None
            match = _SPACE.match(line, end)
            assert match is not None, "the pattern matches nothing too"
            position = match.end()


def _is_lines(path: Path) -> bool:
    """Return whether each value has a line of its own: one of the first two lines that are not empty is a whole value.

    The first two lines of an object that is spread over several lines are not whole values.
    """
    lines = _list_lines(path)
    for number, (_, line) in zip(range(2), lines, strict=False):
        try:
            value, end = _decode(line, 0, 1)
        except (json.JSONDecodeError, _Fault):
            continue
        if end == len(line) and isinstance(value, (dict, list)):
            return number > 0 or next(lines, None) is not None
    return False


def _list_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers from 1. Lines end as Python ends them: LF, CR LF or CR."""
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if stripped := line.rstrip():
                yield number, stripped


def _decode(text: str, position: int, record: int) -> tuple[object, int]:
    """Return the value at a position, and where it ends. Raises `json.JSONDecodeError`, and `_Fault` for its content."""
    match = _SPACE.match(text, position)
    assert match is not None, "the pattern matches nothing too"
    try:
        value, end = _DECODER.raw_decode(text, match.end())
    except _NoNumber:
        raise json.JSONDecodeError("Invalid number", text, _find_no_number(text, match.end())) from None
    except _Duplicate as duplicate:
        key = duplicate.key[:LONGEST_KEY_CHARACTERS]
        raise _Fault(f'record {record} has the key "{key}" twice.') from None
    if _HALF_SURROGATE.search(text, match.end(), end):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _Fault(f"record {record} has one half of a surrogate pair, which is no character.") from None
    return value, end


def _find_no_number(text: str, position: int) -> int:
    """Return the position of the first `NaN` or `Infinity` that is not within a text."""
    return next(token.start() for token in _TEXT_OR_NO_NUMBER.finditer(text, position) if not token[0].startswith('"'))


def _refuse_no_number(name: str) -> object:
    raise _NoNumber(name)


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(key)
            seen.add(key)
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_no_number)


def _not_valid(line: int, column: int) -> _Invalid:
    return _Invalid(f"it is not valid JSON: line {line}, column {column}.")
