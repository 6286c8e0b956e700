"""Holds an Idempotency-Key while the upload that bears it is under way, so that a second one does not store it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog

from api.http.problems import Problem
from api.services import HotPool
from api.submitting.submissions import KeyTaken
from shared.queries import submissions as queries

HELD_SECONDS: Final = 30
RENEWED_SECONDS: Final = 8
RELEASE_PATIENCE_SECONDS: Final = 1.0
_TRIES: Final = 3
log = structlog.get_logger()


class HeldKey:
    """A key that no other request can take, unless this process is silent towards the database for `HELD_SECONDS`."""

    def __init__(self, owner_id: UUID, key: str) -> None:
        self._identity = {"owner_id": owner_id, "key": key}

    async def complete(
        self, connection: psycopg.AsyncConnection[tuple[Any, ...]], fingerprint: str, subject_id: UUID
    ) -> None:
        """Make the key stand for what the connection's transaction stores. Raises `KeyTaken` if it was lost to another."""
        kept = {
            **self._identity,
            "fingerprint": bytes.fromhex(fingerprint),
            "subject_id": subject_id,
            "status_code": 202,
        }
        for statement in (queries.COMPLETE_KEY, queries.KEEP_KEY):
            if await (await connection.execute(statement, kept)).fetchone() is not None:
                return
        raise KeyTaken


@asynccontextmanager
async def held_key(pool: HotPool, owner_id: UUID, key: str | None) -> AsyncIterator[HeldKey | None]:
    """Hold a key and renew the hold; give None without a key, or when it stands for something stored already.

    When the block ends and the key was not completed it is free again. Raises the problem `idempotency-key-in-flight`
    while another request holds it.
    """
    if key is None or not await _hold(pool, owner_id, key):
        yield None
        return
    identity = {"owner_id": owner_id, "key": key}
    renewing = asyncio.create_task(_renew(pool, identity))
    try:
        yield HeldKey(owner_id, key)
    finally:
        renewing.cancel()
        # A key that cannot be let go now is free as soon as its hold is over. A completed one is no longer held.
        with suppress(psycopg.Error):
            async with pool.connection(timeout=RELEASE_PATIENCE_SECONDS) as connection:
                await connection.execute(queries.RELEASE_KEY, identity)


async def _hold(pool: HotPool, owner_id: UUID, key: str) -> bool:
    identity = {"owner_id": owner_id, "key": key}
    for _ in range(_TRIES):
        async with pool.connection() as connection:
            cursor = await connection.execute(queries.HOLD_KEY, {**identity, "seconds": HELD_SECONDS})
            if await cursor.fetchone() is not None:
                return True
            row = await (await connection.execute(queries.FIND_KEY, identity)).fetchone()
        if row is not None and row[3]:
            break
        if row is not None:
            return False
        # It was let go between the two statements.
    raise Problem("idempotency-key-in-flight", headers={"Retry-After": "2", "Connection": "close"})


async def _renew(pool: HotPool, identity: dict[str, Any]) -> None:
    while True:
        await asyncio.sleep(RENEWED_SECONDS)
        try:
            async with pool.connection() as connection:
                await connection.execute(queries.RENEW_KEY, {**identity, "seconds": HELD_SECONDS})
        except psycopg.Error as error:
            log.warning("key_not_renewed", error=type(error).__name__)
