"""Access tokens: what is accepted, and every way in which a token can be wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.people.access_tokens import (
    ACCESS_TOKEN_SECONDS,
    REQUIRED_CLAIMS,
    InvalidToken,
    find_key_id,
    is_access_token,
    read_access_token,
    sign_access_token,
)
from shared.people.one_use_tokens import new_token, token_digest
from shared.people.signing_keys import new_signing_key, public_jwk, read_private_key, read_public_key
from shared.settings import Settings
from shared.stored_secrets import SecretCipher, UnreadableSecret

ISSUER = "https://tasks.example.com"
KEY = Ed25519PrivateKey.generate()
Claims = dict[str, Any]


def sign(**fields: Any) -> str:
    names = {"issuer": ISSUER, "person_id": uuid4(), "session_id": uuid4(), "organization_id": uuid4()}
    return sign_access_token(KEY, "k1", **{**names, "scopes": frozenset({"tasks:read"}), "version": 3, **fields})


def read(token: str) -> object:
    return read_access_token(token, KEY.public_key(), find_key_id(token), ISSUER)


def forge(change: Callable[[Claims], None], key: Any = KEY, algorithm: str = "EdDSA", kid: Any = "k1") -> str:
    claims = jwt.decode(sign(), options={"verify_signature": False})
    change(claims)
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid is not None else None)


def without(name: str) -> Callable[[Claims], None]:
    return lambda claims: claims.pop(name)


def with_claim(name: str, value: object) -> Callable[[Claims], None]:
    return lambda claims: claims.update({name: value})


def unsecured() -> str:
    def encode(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = jwt.decode(sign(), options={"verify_signature": False})
    return f"{encode({'alg': 'none', 'kid': 'k1', 'typ': 'JWT'})}.{encode(claims)}."


def test_a_signed_token_says_what_was_signed() -> None:
    person, session, organization = uuid4(), uuid4(), uuid4()
    token = sign(person_id=person, session_id=session, organization_id=organization)

    found = read_access_token(token, KEY.public_key(), find_key_id(token), ISSUER)

    assert (found.person_id, found.session_id, found.organization_id) == (person, session, organization)
    assert (found.scopes, found.version, found.key_id) == ({"tasks:read"}, 3, "k1")
    assert found.expires_at - datetime.now(UTC) <= timedelta(seconds=ACCESS_TOKEN_SECONDS)
    assert is_access_token(token)


@pytest.mark.parametrize("claim", [*REQUIRED_CLAIMS, "sid", "org", "scope", "ver"])
def test_a_token_without_one_of_its_claims_is_refused(claim: str) -> None:
    with pytest.raises(InvalidToken):
        read(forge(without(claim)))


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(unsecured(), id="alg-none"),
        pytest.param(forge(lambda claims: None, "s" * 32, "HS256"), id="shared-secret"),
        pytest.param(forge(lambda claims: None, Ed25519PrivateKey.generate()), id="another-key"),
        pytest.param(forge(lambda claims: None, kid=None), id="no-key-id"),
        pytest.param(forge(with_claim("aud", "another")), id="another-audience"),
        pytest.param(forge(with_claim("aud", ["taskmill", "another"])), id="several-audiences"),
        pytest.param(forge(with_claim("iss", "https://evil.example")), id="another-issuer"),
        pytest.param(forge(with_claim("iat", 4_000_000_000)), id="issued-in-the-future"),
        pytest.param(forge(with_claim("nbf", 4_000_000_000)), id="not-valid-yet"),
        pytest.param(forge(with_claim("exp", 4_000_000_000)), id="valid-for-too-long"),
        pytest.param(sign(now=datetime.now(UTC) - timedelta(hours=1)), id="expired"),
        pytest.param(sign(now=datetime.now(UTC) + timedelta(hours=1)), id="from-the-future"),
        pytest.param(forge(with_claim("sub", "nobody")), id="no-person"),
        pytest.param(forge(with_claim("scope", ["tasks:read"])), id="scope-is-a-list"),
        pytest.param(sign()[:-6] + "AAAAAA", id="changed-signature"),
        pytest.param("a.b.c", id="no-json"),
        pytest.param("..", id="empty"),
        pytest.param("e30.e30.e30", id="empty-objects"),
        pytest.param("\u00e9.\u00e9.\u00e9", id="beyond-ascii"),
    ],
)
def test_a_wrong_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        read(token)


def test_a_signing_key_is_encrypted_and_read_back() -> None:
    cipher = SecretCipher(Settings())
    stored = new_signing_key(cipher)

    private_key = read_private_key(stored, cipher)

    assert private_key.public_key() == read_public_key(stored.public_key)
    assert private_key.private_bytes_raw() not in base64.b64decode(stored.private_key.rpartition(":")[2])
    jwk = public_jwk(stored.id, stored.public_key)
    assert jwt.PyJWK(jwk).key == private_key.public_key()
    assert "d" not in jwk


def test_a_signing_key_cannot_be_stored_in_the_place_of_another() -> None:
    cipher = SecretCipher(Settings())
    one, other = new_signing_key(cipher), new_signing_key(cipher)
    moved = type(one)(other.id, one.public_key, one.private_key)

    with pytest.raises(UnreadableSecret):
        read_private_key(moved, cipher)


def test_a_token_is_accepted_for_its_own_purpose_only() -> None:
    token = new_token("reset")

    assert token_digest("reset", token) == token_digest("reset", token)
    assert token_digest("invitation", token) is None
    assert token_digest("reset", token + "x" * 100) is None
    assert token_digest("reset", "tmp_\u00e9") is None
