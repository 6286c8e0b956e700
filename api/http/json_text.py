"""Decodes JSON, and refuses objects that have a key twice."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from api.http.problems import MAX_FIELD_ERRORS, FieldError, Problem, invalid, invalid_body, json_pointer

Model = TypeVar("Model", bound=BaseModel)

GZIP_MAGIC: Final = b"\x1f\x8b"
ESCAPED_COLON_START: Final = b"\\u003"
"""The beginning of an escaped colon, `\\u003a` or `\\u003A`. Escapes of digits and of `;<=>?` begin the same; a text with one
is decoded a second time."""


class _Members(list[tuple[str, Any]]):
    """The members of an object in the order of the text, repeated ones too."""


def load_json(text: bytes, prefix: str = "") -> Any:
    """Return decoded JSON. Raises the problem `validation` for malformed JSON and for repeated keys, at any depth.

    `prefix` is the JSON Pointer to the text. RFC 8259, section 4, does not define what a repeated key means.
    """
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(prefix, "json_invalid", f"Malformed JSON: {_explain(text, error)}") from None
    if _may_repeat_keys(text, content):
        _refuse_repeated_keys(text, prefix)
    return content


def parse_body(model: type[Model], body: bytes, *, strict: bool | None = None) -> Model:
    """Return a JSON body as a model; `strict` is that of the model unless it is given. Raises the problem `validation`."""
    if not isinstance(load_json(body), dict):
        raise invalid("", "dict_type", "Input should be an object")
    try:
        return model.model_validate_json(body, strict=strict)
    except ValidationError as error:
        raise invalid_body(error) from None


def _may_repeat_keys(text: bytes, content: Any) -> bool:
    """Return False if no object in the text has a key twice, without decoding the text a second time.

    Of repeated keys orjson keeps the last, so the decoded content, encoded again, has fewer colons than the text. Only an
    escaped colon in the text makes it have more.
    """
    if b"{" not in text:
        return False
    try:
        written = orjson.dumps(content)
    except orjson.JSONEncodeError:
        # The content is nested more deeply than orjson can encode.
        return True
    return written.count(b":") != text.count(b":") or ESCAPED_COLON_START in text


def _refuse_repeated_keys(text: bytes, prefix: str) -> None:
    try:
        content = json.loads(text, object_pairs_hook=_Members)
    except RecursionError:
        raise invalid(prefix, "json_invalid", "The JSON is nested too deeply") from None
    pointers: dict[str, None] = {}
    for pointer in _find_repeated_keys(content):
        pointers[prefix + pointer] = None
        if len(pointers) == MAX_FIELD_ERRORS:
            break
    if pointers:
        errors = [FieldError(pointer, "repeated_key", "The object has this key more than once") for pointer in pointers]
        raise Problem("validation", errors=errors)


def _find_repeated_keys(content: Any) -> Iterator[str]:
    """Yield the pointer of each key that its object has more than once."""
    containers: deque[tuple[tuple[str | int, ...], Any]] = deque([((), content)])
    while containers:
        path, container = containers.popleft()
        if isinstance(container, _Members):
            seen: set[str] = set()
            for key, value in container:
                if key in seen:
                    yield json_pointer((*path, key))
                seen.add(key)
                if isinstance(value, list):
                    containers.append(((*path, key), value))
        elif isinstance(container, list):
            containers.extend(
                ((*path, position), value) for position, value in enumerate(container) if isinstance(value, list)
            )


def _explain(text: bytes, error: orjson.JSONDecodeError) -> str:
    """Return why a text is not JSON. If it is compressed or not UTF-8, the message does not come from the decoder."""
    if text.startswith(GZIP_MAGIC):
        return "the body is compressed, which is not supported: send it uncompressed"
    try:
        text.decode()
    except UnicodeDecodeError as wrong:
        return f"the body is not UTF-8 at byte {wrong.start}"
    return str(error)
