"""Encrypts the secrets that the platform stores, such as those that sign webhooks.

A stored secret is a text, `v1:<name of the key>:<base64 of nonce and ciphertext>`: AES-256-GCM (NIST SP 800-38D) with a random
nonce of 96 bits. The purpose of the secret is authenticated with it, so that a value that was copied to another column cannot
be decrypted there.

Keys come from `TASKMILL_ENCRYPTION_KEYS`. To replace a key, put the new one first and keep the old one behind it: what it
encrypted stays readable. The key that is derived from `TASKMILL_SECRET_KEY` encrypts while no other is set, and decrypts always.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.encryption_keys import parse_encryption_keys
from shared.settings import Settings

DERIVED_KEY: Final = "secret-key"
"""The name of the key that is derived from `TASKMILL_SECRET_KEY`."""
_VERSION: Final = "v1"
_NONCE_BYTES: Final = 12


class UnreadableSecret(Exception):
    """A stored secret cannot be decrypted: its key is no longer among the settings, or the value was changed."""


class SecretCipher:
    """Encrypts and decrypts stored secrets with the keys of the settings."""

    def __init__(self, settings: Settings) -> None:
        keys = parse_encryption_keys(settings.encryption_keys.get_secret_value())
        secret_key = settings.secret_key.get_secret_value().encode()
        keys.setdefault(DERIVED_KEY, HKDF(SHA256(), 32, None, b"taskmill stored secrets").derive(secret_key))
        self.first_key = next(iter(keys))
        """The name of the key that encrypts."""
        self._digest_key = HKDF(SHA256(), 32, None, b"taskmill digests").derive(secret_key)
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}

    def encrypt(self, secret: str, purpose: str) -> str:
        """Return the stored form of a secret, encrypted with the first key."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._ciphers[self.first_key].encrypt(nonce, secret.encode(), purpose.encode())
        return f"{_VERSION}:{self.first_key}:{base64.b64encode(sealed).decode()}"

    def digest(self, value: bytes) -> bytes:
        """Return the HMAC-SHA-256 of a value under a key that is derived from `TASKMILL_SECRET_KEY`."""
        return hmac.digest(self._digest_key, value, hashlib.sha256)

    def decrypt(self, stored: str, purpose: str) -> str:
        """Return the secret of a stored form. Raises `UnreadableSecret`."""
        version, _, rest = stored.partition(":")
        name, _, text = rest.partition(":")
        cipher = self._ciphers.get(name)
        if version != _VERSION or cipher is None:
            raise UnreadableSecret(f"no key named {name!r} is set: add it to TASKMILL_ENCRYPTION_KEYS")
        sealed = base64.b64decode(text)
        try:
            return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose.encode()).decode()
        except InvalidTag:
            raise UnreadableSecret(
                f"the key {name!r} does not decrypt it: TASKMILL_SECRET_KEY or TASKMILL_ENCRYPTION_KEYS has changed"
            ) from None
