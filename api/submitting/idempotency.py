"""Idempotency keys: one key and one request give one answer, however often the request is sent.

- A key is stored in the transaction that stores the task or batch of its request, for `IDEMPOTENCY_KEY_HOURS` per caller.
- `IdempotencyKeys.find` returns the task or batch of a key, so that the first answer can be sent again.
- An upload takes long, so it reserves its key while it runs (`IdempotencyKeys.reserve`), and a second request with the key is
  refused instead of storing the file again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
import psycopg
import structlog
from psycopg.rows import class_row

from api.batcher import HotConnection, HotPool
from api.http.json_text import load_json
from api.http.problems import Problem, invalid
from shared.queries import submissions as queries
from shared.stored_secrets import SecretCipher

MAX_KEY_LENGTH: Final = 255
KEY_CHARACTERS: Final = frozenset(range(0x21, 0x7F))
RESERVATION_SECONDS: Final = 30
RENEW_RESERVATION_SECONDS: Final = 8
DELETE_TIMEOUT_SECONDS: Final = 1.0
IN_FLIGHT_RETRY_SECONDS: Final = 2
_RESERVE_ATTEMPTS: Final = 3
log = structlog.get_logger()


class KeyTaken(Exception):
    """Another request has stored or reserved the idempotency key in the meantime."""


class StoredAnswer(NamedTuple):
    """The answer that was stored with a key."""

    subject_id: UUID
    """The task or the batch that the first request submitted."""
    status_code: int


class _KeyRow(NamedTuple):
    """The columns of `queries.FIND_KEY`."""

    fingerprint: bytes | None
    subject_id: UUID | None
    status_code: int | None
    in_flight: bool
    stale: bool


def read_idempotency_key(value: str | None) -> str | None:
    """Return the header's value. Raises a problem unless it is 1 to 255 visible ASCII characters."""
    if value is None:
        return None
    if not 1 <= len(value) <= MAX_KEY_LENGTH or any(ord(character) not in KEY_CHARACTERS for character in value):
        message = f"The key must be 1 to {MAX_KEY_LENGTH} visible ASCII characters."
        raise invalid("header:Idempotency-Key", "invalid_key", message)
    return value


def fingerprint(method: str, path: str, body: bytes) -> str:
    """Return the SHA-256, in hex, of a request's method, path and JSON body in canonical form.

    Raises the problem `validation` for a body that is no JSON, or is nested too deeply.
    """
    try:
        canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        load_json(body)
        raise invalid("", "json_invalid", "The JSON is nested too deeply.") from None
    return hashlib.sha256(f"{method} {path}\n".encode() + canonical).hexdigest()


def protect_fingerprint(fingerprint: str, cipher: SecretCipher) -> str:
    """Return a keyed digest of a fingerprint, in hex: what is stored for a request with secrets."""
    return cipher.digest(bytes.fromhex(fingerprint)).hex()


async def store_key(
    connection: HotConnection, owner_id: UUID, key: str, fingerprint: str | None, stored: StoredAnswer
) -> None:
    """Store a key in the connection's transaction. Raises `KeyTaken` if another request has it."""
    cursor = await connection.execute(queries.STORE_KEY, _stored_parameters(owner_id, key, fingerprint, stored))
    if await cursor.fetchone() is None:
        raise KeyTaken


def _stored_parameters(owner_id: UUID, key: str, fingerprint: str | None, stored: StoredAnswer) -> dict[str, Any]:
    return {
        "owner_id": owner_id,
        "key": key,
        "fingerprint": bytes.fromhex(fingerprint or ""),
        "subject_id": stored.subject_id,
        "status_code": stored.status_code,
    }


class ReservedKey:
    """A key that is reserved for a request. Until its reservation ends, no other request can use it."""

    def __init__(self, owner_id: UUID, key: str) -> None:
        self._owner_id = owner_id
        self._key = key

    async def complete(self, connection: HotConnection, fingerprint: str, stored: StoredAnswer) -> None:
        """Store the key in the connection's transaction. Raises `KeyTaken` if the reservation ended and another request has it."""
        parameters = _stored_parameters(self._owner_id, self._key, fingerprint, stored)
        for statement in (queries.COMPLETE_RESERVED_KEY, queries.STORE_KEY):
            if await (await connection.execute(statement, parameters)).fetchone() is not None:
                return
        raise KeyTaken


class IdempotencyKeys:
    """Finds, stores and reserves keys, in transactions of its own."""

    def __init__(self, pool: HotPool, cipher: SecretCipher) -> None:
        self._pool = pool
        self._cipher = cipher

    async def find(self, owner_id: UUID, key: str, fingerprint: str | None) -> StoredAnswer | None:
        """Return the answer that was stored with a key, or None if the key is free.

        Raises the problems `idempotency-key-in-flight` and `idempotency-key-reused`. Without a fingerprint the second
        is not checked.
        """
        parameters = {"owner_id": owner_id, "key": key}
        async with self._pool.connection() as connection:
            row = await _find_row(connection, parameters)
            if row is None or row.stale:
                await connection.execute(queries.DROP_STALE_KEY, parameters)
                return None
        if row.in_flight or row.subject_id is None or row.status_code is None or row.fingerprint is None:
            raise _in_flight()
        # What is found before the submission is parsed does not know yet whether it has secrets.
        if fingerprint is not None and row.fingerprint.hex() not in {
            fingerprint,
            protect_fingerprint(fingerprint, self._cipher),
        }:
            raise Problem("idempotency-key-reused")
        return StoredAnswer(row.subject_id, row.status_code)

    async def store(self, owner_id: UUID, key: str, fingerprint: str | None, stored: StoredAnswer) -> None:
        """Store a key. Raises `KeyTaken` if another request has it."""
        async with self._pool.connection() as connection:
            await store_key(connection, owner_id, key, fingerprint, stored)

    @asynccontextmanager
    async def reserve(self, owner_id: UUID, key: str | None) -> AsyncIterator[ReservedKey | None]:
        """Reserve a key while the block runs. Yields None without a key, or if an earlier request has stored the key.

        When the block ends without `ReservedKey.complete`, the key is free again. It also becomes free if this process cannot
        renew the reservation for `RESERVATION_SECONDS`. Raises the problem `idempotency-key-in-flight` if another request has
        reserved the key.
        """
        if key is None or not await self._reserve(owner_id, key):
            yield None
            return
        identity = {"owner_id": owner_id, "key": key}
        renewing = asyncio.create_task(self._renew_reservation(identity))
        try:
            yield ReservedKey(owner_id, key)
        finally:
            renewing.cancel()
            # If this fails, the key is free when its reservation ends. A completed key is no longer reserved.
            with suppress(psycopg.Error):
                async with self._pool.connection(timeout=DELETE_TIMEOUT_SECONDS) as connection:
                    await connection.execute(queries.DELETE_RESERVATION, identity)

    async def _reserve(self, owner_id: UUID, key: str) -> bool:
        """Return True if the key is now reserved, and False if an earlier request has stored it."""
        identity = {"owner_id": owner_id, "key": key}
        for _ in range(_RESERVE_ATTEMPTS):
            async with self._pool.connection() as connection:
                cursor = await connection.execute(queries.RESERVE_KEY, {**identity, "seconds": RESERVATION_SECONDS})
                if await cursor.fetchone() is not None:
                    return True
                row = await _find_row(connection, identity)
            if row is not None and row.in_flight:
                break
            if row is not None:
                return False
            # The other request deleted its reservation between the two statements.
        raise _in_flight(connection_header="close")

    async def _renew_reservation(self, identity: dict[str, Any]) -> None:
        while True:
            await asyncio.sleep(RENEW_RESERVATION_SECONDS)
            try:
                async with self._pool.connection() as connection:
                    await connection.execute(queries.RENEW_RESERVATION, {**identity, "seconds": RESERVATION_SECONDS})
            except psycopg.Error as error:
                log.warning("idempotency_key_renewal_failed", error=type(error).__name__)


async def _find_row(connection: HotConnection, parameters: dict[str, Any]) -> _KeyRow | None:
    async with connection.cursor(row_factory=class_row(_KeyRow)) as cursor:
        await cursor.execute(queries.FIND_KEY, parameters)
        return await cursor.fetchone()


def _in_flight(*, connection_header: str | None = None) -> Problem:
    headers = {"Retry-After": str(IN_FLIGHT_RETRY_SECONDS)}
    if connection_header is not None:
        headers["Connection"] = connection_header
    return Problem("idempotency-key-in-flight", headers=headers)
