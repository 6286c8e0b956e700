"""Signs webhooks as Standard Webhooks specifies (https://www.standardwebhooks.com, version 1, symmetric signatures)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

SECRET_PREFIX: Final = "whsec_"
SECRET_PURPOSE: Final = "webhook"
"""What secrets of webhooks are encrypted for: see `shared/stored_secrets.py`."""
_NEW_SECRET_BYTES: Final = 32
_SECRET_BYTES: Final = range(24, 65)


def new_secret() -> str:
    """Return a new random secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode()


def normalize_secret(text: str) -> str:
    """Return a secret with its prefix. Raises `ValueError` unless it is the base64 of 24 to 64 bytes."""
    encoded = text.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in _SECRET_BYTES:
        raise ValueError("Must be whsec_ and the base64 of 24 to 64 random bytes.")
    return SECRET_PREFIX + encoded


def make_headers(message_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers of a message, with one signature for each secret. `timestamp` is in seconds of Unix time."""
    content = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets]
    signatures = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
