"""Access tokens: JSON Web Tokens (RFC 7519) signed by EdDSA with Ed25519 (RFC 8037), valid for fifteen minutes.

A token names a person (`sub`), the session (`sid`) and the organization (`org`) for which it was issued, its scopes, and the
version of the person's rights (`ver`). It is never the last word: whether its session and its rights still stand is looked up.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM: Final = "EdDSA"
AUDIENCE: Final = "taskmill"
ACCESS_TOKEN_SECONDS: Final = 15 * 60
LEEWAY_SECONDS: Final = 5
"""How far the clocks of two servers may differ."""
MAX_TOKEN_CHARACTERS: Final = 4096
REQUIRED_CLAIMS: Final = ("exp", "iat", "aud", "iss", "sub", "jti")


class InvalidToken(Exception):
    """A token that is not accepted: changed, expired, from the future, for another audience, or signed by an unknown key."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What an access token says."""

    person_id: UUID
    session_id: UUID
    organization_id: UUID
    scopes: frozenset[str]
    version: int
    key_id: str
    expires_at: datetime


def sign_access_token(
    private_key: Ed25519PrivateKey,
    key_id: str,
    *,
    issuer: str,
    person_id: UUID,
    session_id: UUID,
    organization_id: UUID,
    scopes: frozenset[str],
    version: int,
    now: datetime | None = None,
) -> str:
    """Return a signed token, which is valid for `ACCESS_TOKEN_SECONDS` from now."""
    issued_at = now or datetime.now(UTC)
    claims = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": str(person_id),
        "iat": int(issued_at.timestamp()),
        "exp": int((issued_at + timedelta(seconds=ACCESS_TOKEN_SECONDS)).timestamp()),
        "jti": secrets.token_urlsafe(16),
        "sid": str(session_id),
        "org": str(organization_id),
        "scope": " ".join(sorted(scopes)),
        "ver": version,
    }
    return jwt.encode(claims, private_key, algorithm=ALGORITHM, headers={"kid": key_id, "typ": "at+jwt"})


def is_access_token(text: str) -> bool:
    """Return whether a text has the form of a signed token: three parts between dots."""
    return len(text) <= MAX_TOKEN_CHARACTERS and text.count(".") == 2


def find_key_id(token: str) -> str:
    """Return the `kid` of a token that is not verified yet. Raises `InvalidToken`."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
        raise InvalidToken(str(error)) from None
    key_id = header.get("kid")
    if header.get("alg") != ALGORITHM or not isinstance(key_id, str):
        raise InvalidToken("the token must be signed by EdDSA with a key that it names")
    return key_id


def read_access_token(token: str, public_key: Ed25519PublicKey, key_id: str, issuer: str) -> AccessToken:
    """Verify a token and return what it says. Raises `InvalidToken`."""
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            public_key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": list(REQUIRED_CLAIMS), "strict_aud": True},
        )
        lifetime = claims["exp"] - claims["iat"]
        if not 0 < lifetime <= ACCESS_TOKEN_SECONDS:
            raise InvalidToken("the token is valid for longer than this server issues tokens")
        return AccessToken(
            person_id=UUID(claims["sub"]),
            session_id=UUID(claims["sid"]),
            organization_id=UUID(claims["org"]),
            scopes=frozenset(claims["scope"].split()),
            version=int(claims["ver"]),
            key_id=key_id,
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )
    except (jwt.InvalidTokenError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidToken(str(error)) from None
