"""ID tokens of a sign-in provider: what is accepted, and everything that must not be."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, Key, RSAKey

from api.auth.id_tokens import InvalidIdToken, UnknownKey, read_id_token, read_keys

NOW = 1_800_000_000
ISSUER, CLIENT, NONCE = "https://login.example.com", "taskmill", "a nonce"
CLAIMS = {"iss": ISSUER, "aud": CLIENT, "sub": "248289761001", "nonce": NONCE, "iat": NOW - 5, "exp": NOW + 300}
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})


def sign(claims: dict[str, Any], key: Key = RSA, **header: Any) -> str:
    fields = {"alg": "RS256", "kid": key.kid, **header}
    return jwt.encode(
        {name: value for name, value in fields.items() if value is not None}, claims, key, [fields["alg"]]
    )


def _base64(header: dict[str, str]) -> str:
    return urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()


def read(token: str, *keys: Key, access_token: str | None = None) -> dict[str, Any]:
    return read_id_token(
        token, keys or (RSA, EC), issuer=ISSUER, client_id=CLIENT, nonce=NONCE, access_token=access_token, now=NOW
    )


@pytest.mark.parametrize(
    "token",
    [
        sign(CLAIMS),
        sign(CLAIMS, EC, alg="ES256"),
        sign(CLAIMS, EC, alg="ES256", kid=None),
        sign({**CLAIMS, "aud": [CLIENT, "other"], "azp": CLIENT}),
        sign({**CLAIMS, "exp": NOW - 30}),
        sign({**CLAIMS, "iat": NOW + 30}),
    ],
)
def test_a_token_of_the_provider_is_accepted_with_a_minute_of_clock_skew(token: str) -> None:
    assert read(token)["sub"] == "248289761001"


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another client"},
        {"aud": ["another client"]},
        {"aud": [CLIENT, "other"]},
        {"azp": "another client"},
        {"nonce": "another nonce"},
        {"nonce": None},
        {"exp": NOW - 61},
        {"exp": "tomorrow"},
        {"exp": None},
        {"iat": NOW + 61},
        {"iat": None},
        {"nbf": NOW + 61},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"sub": "a\0b"},
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(change: dict[str, Any]) -> None:
    claims = {name: value for name, value in {**CLAIMS, **change}.items() if value is not None}

    with pytest.raises(InvalidIdToken):
        read(sign(claims))


def test_an_access_token_that_does_not_belong_to_the_token_is_refused() -> None:
    # OpenID Connect Core 1.0, section 3.1.3.6.
    token = sign({**CLAIMS, "at_hash": "77QmUPtjPfzWtF2AnpK9RQ"})

    assert read(token, access_token="jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y")
    with pytest.raises(InvalidIdToken):
        read(token, access_token="another one")


def test_signatures_that_anybody_can_make_are_refused() -> None:
    head, body, _ = sign(CLAIMS).split(".")
    none = f"{_base64({'alg': 'none'})}.{body}."
    # The public key as the secret of an HMAC, which a verifier that trusts `alg` would accept.
    signed = f"{_base64({'alg': 'HS256', 'kid': 'rsa'})}.{body}"
    mac = hmac.digest(RSA.as_pem(private=False), signed.encode(), "sha256")
    shared = f"{signed}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    forged = sign(CLAIMS, RSAKey.generate_key(2048, {"kid": "rsa"}))

    for token in (none, shared, forged, f"{head}.{body}.", f"{head}.{body}", "", "a.b.c", "é", sign(CLAIMS) + "x"):
        with pytest.raises(InvalidIdToken):
            read(token)


def test_a_key_that_is_not_published_is_told_from_a_wrong_signature() -> None:
    with pytest.raises(UnknownKey):
        read(sign(CLAIMS, RSAKey.generate_key(2048, {"kid": "new"})))


def test_keys_that_cannot_verify_are_left_out() -> None:
    public = RSA.as_dict(private=False)
    keys = read_keys({"keys": [public, {**public, "use": "enc"}, {"kty": "oct", "k": "AA"}, {"kty": "RSA"}, 7, None]})

    assert [key.kid for key in keys] == ["rsa"]
    with pytest.raises(ValueError, match="keys"):
        read_keys({"keys": "none"})
