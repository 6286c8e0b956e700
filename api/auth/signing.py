"""Signs and verifies access tokens with the keys of the database, which each process caches."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.people.access_tokens import AccessToken, InvalidToken, find_key_id, read_access_token, sign_access_token
from shared.people.signing_keys import StoredKey, new_signing_key, public_jwk, read_private_key, read_public_key
from shared.queries import sessions as queries
from shared.settings import Settings
from shared.stored_secrets import SecretCipher

CACHE_SECONDS: Final = 60.0
"""How long the keys are cached. Whether a key is accepted still is also looked up with each session."""
RELOAD_SECONDS: Final = 1.0
"""How often a token with an unknown key may cause the keys to be read, so that wrong tokens cost no statement each."""


@dataclass(frozen=True)
class _Keys:
    """The keys as they were read: the one that signs, and all that are accepted, by id."""

    current_id: str
    private_key: Ed25519PrivateKey
    public_keys: dict[str, bytes]
    read_at: float


class TokenSigner:
    """Signs and verifies access tokens. The first key is made when it is first needed."""

    def __init__(self, settings: Settings, engine: AsyncEngine, cipher: SecretCipher) -> None:
        self._issuer = settings.public_url
        self._engine = engine
        self._cipher = cipher
        self._keys: _Keys | None = None
        self._reading = asyncio.Lock()

    async def sign(
        self, person_id: UUID, session_id: UUID, organization_id: UUID, scopes: frozenset[str], version: int
    ) -> str:
        """Return an access token."""
        keys = await self._read(CACHE_SECONDS)
        return sign_access_token(
            keys.private_key,
            keys.current_id,
            issuer=self._issuer,
            person_id=person_id,
            session_id=session_id,
            organization_id=organization_id,
            scopes=scopes,
            version=version,
        )

    async def verify(self, token: str) -> AccessToken:
        """Return what a token says. Raises `InvalidToken`."""
        key_id = find_key_id(token)
        keys = await self._read(CACHE_SECONDS)
        if key_id not in keys.public_keys:
            keys = await self._read(RELOAD_SECONDS)
        public_key = keys.public_keys.get(key_id)
        if public_key is None:
            raise InvalidToken("the token is signed by a key that is not accepted")
        return read_access_token(token, read_public_key(public_key), key_id, self._issuer)

    async def key_set(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys as a JSON Web Key Set (RFC 7517)."""
        keys = await self._read(RELOAD_SECONDS)
        return {"keys": [public_jwk(key_id, public_key) for key_id, public_key in keys.public_keys.items()]}

    async def _read(self, most_seconds: float) -> _Keys:
        """Return the keys, as they were at most so many seconds ago."""
        if (known := self._fresh(most_seconds)) is not None:
            return known
        async with self._reading:
            if (known := self._fresh(most_seconds)) is not None:
                return known
            read_at = time.monotonic()
            async with self._engine.begin() as connection:
                rows = (await connection.execute(queries.list_signing_keys())).all()
                if not rows or rows[0].retires_at is not None:
                    await connection.execute(queries.lock_signing_keys())
                    rows = (await connection.execute(queries.list_signing_keys())).all()
                if not rows or rows[0].retires_at is not None:
                    made = new_signing_key(self._cipher)
                    await connection.execute(queries.insert_signing_key(made.id, made.public_key, made.private_key))
                    rows = (await connection.execute(queries.list_signing_keys())).all()
            self._keys = self._load(rows, read_at)
            return self._keys

    def _fresh(self, most_seconds: float) -> _Keys | None:
        known = self._keys
        return known if known is not None and time.monotonic() - known.read_at < most_seconds else None

    def _load(self, rows: Any, read_at: float) -> _Keys:
        current = rows[0]
        if self._keys is not None and self._keys.current_id == current.id:
            private_key = self._keys.private_key
        else:
            private_key = read_private_key(StoredKey(current.id, current.public_key, current.private_key), self._cipher)
        return _Keys(current.id, private_key, {row.id: bytes(row.public_key) for row in rows}, read_at)
