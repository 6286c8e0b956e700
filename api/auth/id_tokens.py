"""Verifies the ID tokens of a sign-in provider (OpenID Connect Core 1.0, section 3.1.3.7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from authlib.oidc.core import CodeIDToken
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet

ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
)
"""Signatures by a key that only the provider has: neither `none`, nor those by a secret that is shared."""
CLOCK_SKEW_SECONDS: Final = 60
MAX_TOKEN_CHARACTERS: Final = 64 << 10
MAX_SUBJECT_CHARACTERS: Final = 255


class InvalidIdToken(Exception):
    """An ID token that is not accepted. The text says why, without what the token contains."""


class UnknownKey(InvalidIdToken):
    """The token is signed by a key that the known keys do not contain: the provider may have a new one."""


def read_keys(document: Mapping[str, Any]) -> list[Key]:
    """Return the keys of a JSON Web Key Set that can verify signatures. Keys of unknown types are left out."""
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise ValueError("`keys` is not a list")
    found: list[Key] = []
    for value in keys:
        if not isinstance(value, dict) or value.get("kty") not in {"RSA", "EC", "OKP"} or value.get("use") == "enc":
            continue
        try:
            found += KeySet.import_key_set({"keys": [value]}).keys
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    return found


def read_id_token(
    token: str,
    keys: Iterable[Key],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str | None,
    now: float,
) -> dict[str, Any]:
    """Return the claims of an ID token. Raises `UnknownKey` or `InvalidIdToken`."""
    header, claims = _verify_signature(token, keys)
    try:
        CodeIDToken(
            claims,
            header,
            options={
                "iss": {"essential": True, "value": issuer},
                "aud": {"essential": True, "value": client_id},
                "sub": {"essential": True},
                "exp": {"essential": True},
                "iat": {"essential": True},
            },
            params={"nonce": nonce, "client_id": client_id, "access_token": access_token},
        ).validate(now=int(now), leeway=CLOCK_SKEW_SECONDS)
    except JoseError as error:
        raise InvalidIdToken(str(error)) from None
    except (TypeError, ValueError, AttributeError):
        raise InvalidIdToken("a claim has another type than it must have") from None
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS or "\0" in subject:
        raise InvalidIdToken("the claim sub is not a text of 1 to 255 characters")
    return claims


def _verify_signature(token: str, keys: Iterable[Key]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims of a token that one of the keys has signed."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidIdToken("the token is too long")
    try:
        header = dict(jws.extract_compact(token.encode()).headers())
    except (JoseError, ValueError):
        raise InvalidIdToken("it is not a signed token") from None
    if header.get("alg") not in ALGORITHMS:
        raise InvalidIdToken("it is signed by an algorithm that is not accepted")
    key_id = header.get("kid")
    candidates = [key for key in keys if key_id is None or key.kid == key_id]
    if not candidates:
        raise UnknownKey("it is signed by a key that the provider does not publish")
    for key in candidates:
        try:
            found = jwt.decode(token, key, algorithms=list(ALGORITHMS))
        except (JoseError, ValueError, TypeError):
            continue
        return dict(found.header), dict(found.claims)
    raise UnknownKey("its signature is wrong") if key_id is None else InvalidIdToken("its signature is wrong")
