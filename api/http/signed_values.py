"""Signs values that the API sends to clients and later accepts again, so that a client cannot make up its own."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from shared.settings import Settings

TAG_BYTES: Final = 16


def sign(settings: Settings, purpose: str, content: bytes, tag_bytes: int = TAG_BYTES) -> str:
    """Return a value as text for URLs. It is only accepted for the same purpose."""
    return base64.urlsafe_b64encode(content + _tag(settings, purpose, content, tag_bytes)).decode().rstrip("=")


def read_signed(settings: Settings, purpose: str, text: str, tag_bytes: int = TAG_BYTES) -> bytes | None:
    """Return the content of a signed value, or None unless `sign` returned exactly this text for the purpose."""
    try:
        content = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    body = content[:-tag_bytes]
    if not hmac.compare_digest(content[-tag_bytes:], _tag(settings, purpose, body, tag_bytes)):
        return None
    # Decoding ignores characters that are not of the alphabet, and bits that the last character has to spare.
    return body if hmac.compare_digest(text.encode(), sign(settings, purpose, body, tag_bytes).encode()) else None


def _tag(settings: Settings, purpose: str, content: bytes, tag_bytes: int) -> bytes:
    key = settings.secret_key.get_secret_value().encode()
    return hmac.digest(key, purpose.encode() + b"\x00" + content, hashlib.sha256)[:tag_bytes]
