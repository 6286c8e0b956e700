"""Parses `TASKMILL_ENCRYPTION_KEYS`: `name:key` pairs, separated by commas."""

from __future__ import annotations

import re
from typing import Final

_PAIR: Final = re.compile(r"([A-Za-z0-9_-]{1,32}):([0-9A-Fa-f]{64})", re.ASCII)


def parse_encryption_keys(text: str) -> dict[str, bytes]:
    """Return the keys by name, in their order. Raises `ValueError`, which does not quote the keys."""
    keys: dict[str, bytes] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        pair = _PAIR.fullmatch(item)
        if pair is None:
            raise ValueError(
                "must be name:key pairs, separated by commas: a name of letters and digits, and a key of 64 hexadecimal "
                "digits, such as those of `openssl rand -hex 32`"
            )
        if pair[1] in keys:
            raise ValueError("has two keys of the same name")
        keys[pair[1]] = bytes.fromhex(pair[2])
    return keys
