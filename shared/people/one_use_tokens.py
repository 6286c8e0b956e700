"""Random tokens that are shown once, such as those of invitations and of refreshing; only their SHA-256 is stored.

A token has 256 random bits, so that no slow hash is needed. Its prefix tells scanners, and people, what it is for.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final, Literal

Purpose = Literal["refresh", "invitation", "reset", "verify", "challenge", "provider"]
PREFIXES: Final[dict[Purpose, str]] = {
    "refresh": "tmr_",
    "invitation": "tmi_",
    "reset": "tmp_",
    "verify": "tmv_",
    "challenge": "tmc_",
    "provider": "tmo_",
}
MAX_TOKEN_CHARACTERS: Final = 100


def new_token(purpose: Purpose) -> str:
    """Return a new random token."""
    return PREFIXES[purpose] + secrets.token_urlsafe(32)


def token_digest(purpose: Purpose, token: str) -> bytes | None:
    """Return the SHA-256 of a token, or None for a text that cannot be a token of this purpose."""
    if not token.startswith(PREFIXES[purpose]) or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        return None
    return hashlib.sha256(token.encode()).digest()
