"""The keys that sign access tokens: Ed25519, with the private part encrypted in the database.

The newest key signs. When another takes its place, it is accepted until the last token that it signed has expired, and its public
part stays in the key set (RFC 7517) until then.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.people.access_tokens import ACCESS_TOKEN_SECONDS, ALGORITHM
from shared.stored_secrets import SecretCipher

OVERLAP: Final = timedelta(seconds=ACCESS_TOKEN_SECONDS + 60)
"""How long a key is accepted after another has taken its place."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key as it is stored."""

    id: str
    public_key: bytes
    private_key: str


def new_signing_key(cipher: SecretCipher) -> StoredKey:
    """Return a new random key, with its private part encrypted."""
    private_key = Ed25519PrivateKey.generate()
    key_id = secrets.token_hex(8)
    secret = base64.b64encode(private_key.private_bytes_raw()).decode()
    return StoredKey(key_id, private_key.public_key().public_bytes_raw(), cipher.encrypt(secret, _purpose(key_id)))


def read_private_key(stored: StoredKey, cipher: SecretCipher) -> Ed25519PrivateKey:
    """Return the private part of a key. Raises `UnreadableSecret`."""
    secret = cipher.decrypt(stored.private_key, _purpose(stored.id))
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(secret))


def read_public_key(public_key: bytes) -> Ed25519PublicKey:
    """Return the public part of a key."""
    return Ed25519PublicKey.from_public_bytes(public_key)


def public_jwk(key_id: str, public_key: bytes) -> dict[str, str]:
    """Return the public part of a key as a JSON Web Key (RFC 8037, section 2)."""
    x = base64.urlsafe_b64encode(public_key).decode().rstrip("=")
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": key_id, "alg": ALGORITHM, "use": "sig"}


def _purpose(key_id: str) -> str:
    return f"signing key {key_id}"
