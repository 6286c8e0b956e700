"""Idempotency keys: one key and one request give one answer, however often the request is sent.

- A key is kept by the transaction that stores what its request made, for `KEPT_HOURS` hours per caller.
- `IdempotencyKeys.find` returns what a key was kept for, so that the first answer can be given again.
- An upload takes long, so it holds its key while it is under way (`IdempotencyKeys.hold`), and a second request with the
  key is refused instead of storing the file again.
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
from api.http.problems import Problem, invalid
from shared.queries import submissions as queries

MAX_KEY_LENGTH: Final = 255
KEY_CHARACTERS: Final = frozenset(range(0x21, 0x7F))
HOLD_SECONDS: Final = 30
RENEW_HOLD_SECONDS: Final = 8
RELEASE_TIMEOUT_SECONDS: Final = 1.0
IN_FLIGHT_RETRY_SECONDS: Final = 2
_HOLD_ATTEMPTS: Final = 3
log = structlog.get_logger()


class KeyTaken(Exception):
    """The idempotency key was kept or held by another request in the meantime."""


class KeptAnswer(NamedTuple):
    """What a key was kept for."""

    subject_id: UUID
    """The task or the batch that the first request made."""
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
    """Return the SHA-256, in hex, of a request's method, path and JSON body in canonical form."""
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(f"{method} {path}\n".encode() + canonical).hexdigest()


async def keep_key(
    connection: HotConnection, owner_id: UUID, key: str, fingerprint: str | None, kept: KeptAnswer
) -> None:
    """Keep a key in the connection's transaction. Raises `KeyTaken` when another request has it."""
    cursor = await connection.execute(queries.KEEP_KEY, _kept_parameters(owner_id, key, fingerprint, kept))
    if await cursor.fetchone() is None:
        raise KeyTaken


def _kept_parameters(owner_id: UUID, key: str, fingerprint: str | None, kept: KeptAnswer) -> dict[str, Any]:
    return {
        "owner_id": owner_id,
        "key": key,
        "fingerprint": bytes.fromhex(fingerprint or ""),
        "subject_id": kept.subject_id,
        "status_code": kept.status_code,
    }


class HeldKey:
    """A key that no other request can take while it is held and the hold is renewed."""

    def __init__(self, owner_id: UUID, key: str) -> None:
        self._owner_id = owner_id
        self._key = key

    async def complete(self, connection: HotConnection, fingerprint: str, kept: KeptAnswer) -> None:
        """Keep the key in the connection's transaction. Raises `KeyTaken` if the hold ended and another request has it."""
        parameters = _kept_parameters(self._owner_id, self._key, fingerprint, kept)
        for statement in (queries.COMPLETE_KEY, queries.KEEP_KEY):
            if await (await connection.execute(statement, parameters)).fetchone() is not None:
                return
        raise KeyTaken


class IdempotencyKeys:
    """Finds and holds keys, in transactions of their own."""

    def __init__(self, pool: HotPool) -> None:
        self._pool = pool

    async def find(self, owner_id: UUID, key: str, fingerprint: str | None) -> KeptAnswer | None:
        """Return what a key was kept for, or None when it is free.

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
        if fingerprint is not None and row.fingerprint.hex() != fingerprint:
            raise Problem("idempotency-key-reused")
        return KeptAnswer(row.subject_id, row.status_code)

    async def keep(self, owner_id: UUID, key: str, fingerprint: str | None, kept: KeptAnswer) -> None:
        """Keep a key. Raises `KeyTaken` when another request has it."""
        async with self._pool.connection() as connection:
            await keep_key(connection, owner_id, key, fingerprint, kept)

    @asynccontextmanager
    async def hold(self, owner_id: UUID, key: str | None) -> AsyncIterator[HeldKey | None]:
        """Hold a key while the block runs; yield None without a key, or when it is kept for an earlier request.

        When the block ends without `HeldKey.complete`, the key is free again. It is free too once this process could not
        renew the hold for `HOLD_SECONDS`. Raises the problem `idempotency-key-in-flight` while another request holds it.
        """
        if key is None or not await self._take_hold(owner_id, key):
            yield None
            return
        identity = {"owner_id": owner_id, "key": key}
        renewing = asyncio.create_task(self._renew_hold(identity))
        try:
            yield HeldKey(owner_id, key)
        finally:
            renewing.cancel()
            # If this fails, the key is free when its hold ends. A completed key is no longer held.
            with suppress(psycopg.Error):
                async with self._pool.connection(timeout=RELEASE_TIMEOUT_SECONDS) as connection:
                    await connection.execute(queries.RELEASE_KEY, identity)

    async def _take_hold(self, owner_id: UUID, key: str) -> bool:
        """Return whether the key is held now; False when it is kept for an earlier request."""
        identity = {"owner_id": owner_id, "key": key}
        for _ in range(_HOLD_ATTEMPTS):
            async with self._pool.connection() as connection:
                cursor = await connection.execute(queries.HOLD_KEY, {**identity, "seconds": HOLD_SECONDS})
                if await cursor.fetchone() is not None:
                    return True
                row = await _find_row(connection, identity)
            if row is not None and row.in_flight:
                break
            if row is not None:
                return False
            # The other request gave up its hold between the two statements.
        raise _in_flight(connection_header="close")

    async def _renew_hold(self, identity: dict[str, Any]) -> None:
        while True:
            await asyncio.sleep(RENEW_HOLD_SECONDS)
            try:
                async with self._pool.connection() as connection:
                    await connection.execute(queries.RENEW_KEY, {**identity, "seconds": HOLD_SECONDS})
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
