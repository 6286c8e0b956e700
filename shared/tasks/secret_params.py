"""Encrypts the secret params of tasks, decrypts them for an attempt, and masks them wherever params are shown.

Stored params have the object `{"$secret": <stored form>}` in the place of each secret (`shared/stored_secrets.py`). Only places
that the contract of the kind marks are encrypted and decrypted, but any such object is masked, whether or not the kind still
exists. Callers cannot store one: submissions refuse the name `$secret`.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from shared.contracts.kind import AnyKind
from shared.contracts.secrets import MASK, STORED_KEY, Path, has_secrets, map_secrets
from shared.stored_secrets import SecretCipher

PURPOSE: Final = "secret param"
_STORED: Final = re.compile(r'\{"\$secret":\s*"[^"\\]*"\}')
"""A stored secret in JSON. Within a text of the JSON its quotes would have backslashes."""
_MASK_JSON: Final = orjson.dumps(MASK).decode()


def seal_params(kind: AnyKind, params: bytes, cipher: SecretCipher) -> bytes:
    """Return params as JSON with their secrets encrypted."""
    if not has_secrets(kind.params):
        return params
    return orjson.dumps(seal_values(kind, orjson.loads(params), cipher))


def seal_values(kind: AnyKind, params: Any, cipher: SecretCipher) -> Any:
    """Return params as a JSON value with their secrets encrypted."""

    def seal(value: Any, path: Path) -> Any:
        return {STORED_KEY: cipher.encrypt(value, PURPOSE)} if isinstance(value, str) else value

    return map_secrets(kind.params, params, seal) if has_secrets(kind.params) else params


def open_params(kind: AnyKind, params: str, cipher: SecretCipher) -> str:
    """Return params as JSON with their secrets decrypted. Raises `UnreadableSecret`."""
    if not has_secrets(kind.params):
        return params
    return orjson.dumps(open_values(kind, orjson.loads(params), cipher)).decode()


def open_values(kind: AnyKind, params: Any, cipher: SecretCipher) -> Any:
    """Return params as a JSON value with their secrets decrypted. Raises `UnreadableSecret`."""

    def decrypt(value: Any, path: Path) -> Any:
        return cipher.decrypt(value[STORED_KEY], PURPOSE) if _is_stored(value) else value

    return map_secrets(kind.params, params, decrypt) if has_secrets(kind.params) else params


def restore_masked(kind: AnyKind, params: Any, earlier: Any) -> Any:
    """Return params in which each secret that is the mask has the value of `earlier` params (decrypted) at the same place."""
    if not has_secrets(kind.params):
        return params
    known: dict[Path, Any] = {}

    def note(value: Any, path: Path) -> Any:
        known[path] = value
        return value

    map_secrets(kind.params, earlier, note)
    return map_secrets(kind.params, params, lambda value, path: known.get(path, value) if value == MASK else value)


def list_masked(kind: AnyKind, params: Any) -> list[Path]:
    """Return the places of secrets whose value is the mask, which somebody has copied from an answer."""
    if not has_secrets(kind.params):
        return []
    masked: list[Path] = []

    def note(value: Any, path: Path) -> Any:
        if value == MASK:
            masked.append(path)
        return value

    map_secrets(kind.params, params, note)
    return masked


def digest_params(kind: AnyKind, params: bytes, cipher: SecretCipher) -> bytes | None:
    """Return a keyed digest of params with secrets as canonical JSON, or None if the kind has none.

    Params are compared by it without storing anything by which a guess at a secret could be checked.
    """
    if not has_secrets(kind.params):
        return None
    return cipher.digest(orjson.dumps(orjson.loads(params), option=orjson.OPT_SORT_KEYS))


def mask_json(text: str) -> str:
    """Return JSON with the mask in the place of each stored secret."""
    return _STORED.sub(_MASK_JSON, text) if '"$secret"' in text else text


def mask_value(value: Any) -> Any:
    """Return a JSON value with the mask in the place of each stored secret."""
    text = orjson.dumps(value).decode()
    return orjson.loads(mask_json(text)) if '"$secret"' in text else value


def _is_stored(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get(STORED_KEY), str)
