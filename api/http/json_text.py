"""Decodes JSON."""

from __future__ import annotations

from typing import Any, Final

import orjson

from api.http.problems import invalid

GZIP_MAGIC: Final = b"\x1f\x8b"


def load_json(text: bytes, prefix: str = "") -> Any:
    """Return decoded JSON. Raises the problem `validation` for malformed JSON; `prefix` is the pointer to the text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(prefix, "json_invalid", f"Malformed JSON: {_explain(text, error)}") from None


def _explain(text: bytes, error: orjson.JSONDecodeError) -> str:
    """Return why a text is no JSON, in words that do not depend on the decoder if it is not UTF-8."""
    if text.startswith(GZIP_MAGIC):
        return "the body is compressed, which is not supported: send it uncompressed"
    try:
        text.decode()
    except UnicodeDecodeError as wrong:
        return f"the body is not UTF-8 at byte {wrong.start}"
    return str(error)
