"""Checks what the API depends on, and whether the other parts of the platform show signs of life.

Concurrent requests, and those within `CHECK_CACHE_SECONDS`, share one run of the checks, because the route needs no key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Annotated, Final, Literal

import anyio
import redis.asyncio as redis
from kombu.connection import Connection as BrokerConnection
from pydantic import Field
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.http.answers import AnswerModel
from shared.database.schema_version import MIGRATE_FIRST, known_revisions, newest_revision
from shared.queries.canaries import CANARY_KIND, LIST_CANARIES
from shared.queries.schema import FIND_REVISION
from shared.queries.signs_of_life import list_signs_of_life
from shared.settings import Settings
from shared.storage.object_store import ObjectStore

CHECK_CACHE_SECONDS: Final = 2.0
CHECK_TIMEOUT_SECONDS: Final = 2.0
"""How long a check may take before it fails."""
SILENT_SECONDS: Final = 15.0
"""How old the last sign of life of a part may be."""
LATE_SECONDS: Final = 60.0
"""A queue whose last canary succeeded longer ago than this is late: it is busy, has no worker, or its worker hangs."""
WATCHED_PARTS: Final = ("relay", "sweeper", "beat")
NEEDED_PARTS: Final = frozenset({"database", "storage"})
"""Parts without which submissions cannot be accepted. If another part fails, tasks are only delayed."""


class HealthCheck(AnswerModel):
    """The check of one part."""

    status: Literal["ok", "wrong"]
    reason: Annotated[str | None, Field(description="What failed.")] = None
    age_seconds: Annotated[
        float | None, Field(ge=0, description="How long ago the part was last seen; null if it never was.")
    ] = None
    round_trip_seconds: Annotated[
        float | None,
        Field(ge=0, description="How long the last canary of a queue took, from its submission to its end."),
    ] = None


class Readiness(AnswerModel):
    """Whether submissions are accepted, and the check of each part by its name."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, HealthCheck]


class ReadinessChecks:
    """The checks of one API process."""

    def __init__(self, settings: Settings, reads: AsyncEngine, store: ObjectStore) -> None:
        self._settings = settings
        self._reads = reads
        self._store = store
        self._older_revisions = known_revisions() - {newest_revision()}
        self._running: asyncio.Task[Readiness] | None = None
        self._finished_at = float("-inf")

    async def check(self) -> Readiness:
        """Return the outcome of the running checks, or of those that ended less than `CHECK_CACHE_SECONDS` ago."""
        is_fresh = time.monotonic() - self._finished_at < CHECK_CACHE_SECONDS
        if self._running is None or (self._running.done() and not is_fresh):
            self._running = asyncio.create_task(self._check_all())
        # A client may disconnect while the checks continue for other requests.
        return await asyncio.shield(self._running)

    async def close(self) -> None:
        """Cancel the running checks."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _check_all(self) -> Readiness:
        from_database, storage, broker = await asyncio.gather(
            self._check_database(), _check(self._ask_storage()), _check(self._ask_broker())
        )
        checks = {"database": from_database.pop("database"), "storage": storage, "broker": broker, **from_database}
        self._finished_at = time.monotonic()
        failed = {name for name, check in checks.items() if check.status != "ok"}
        if failed & NEEDED_PARTS:
            return Readiness(status="unavailable", checks=checks)
        return Readiness(status="degraded" if failed else "ok", checks=checks)

    async def _check_database(self) -> dict[str, HealthCheck]:
        """Return the check of the database, and if it succeeds, those of the parts and queues that it knows of."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS), self._reads.connect() as connection:
                if not await self._is_migrated(connection):
                    return {"database": HealthCheck(status="wrong", reason=f"not migrated: {MIGRATE_FIRST}")}
                return {
                    "database": HealthCheck(status="ok"),
                    **await _check_signs_of_life(connection),
                    **await _check_canaries(connection),
                }
        except Exception as error:
            return {"database": HealthCheck(status="wrong", reason=type(error).__name__)}

    async def _is_migrated(self, connection: AsyncConnection) -> bool:
        """Return whether the tables are those of this version, or of a later one, which this version works with."""
        try:
            revision = (await connection.exec_driver_sql(FIND_REVISION)).scalar()
        except ProgrammingError:
            return False
        return revision is not None and revision not in self._older_revisions

    async def _ask_storage(self) -> None:
        await anyio.to_thread.run_sync(self._store.check, abandon_on_cancel=True)

    async def _ask_broker(self) -> None:
        url = self._settings.broker_url
        if self._settings.broker_is_redis:
            once = Retry(NoBackoff(), 0)
            async with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1, retry=once) as client:
                await client.ping()
        else:
            await anyio.to_thread.run_sync(_ask_kombu, url, abandon_on_cancel=True)


async def _check(question: Awaitable[None]) -> HealthCheck:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await question
    except Exception as error:
        return HealthCheck(status="wrong", reason=type(error).__name__)
    return HealthCheck(status="ok")


def _ask_kombu(url: str) -> None:
    with BrokerConnection(url, connect_timeout=1) as connection:
        connection.ensure_connection(max_retries=1, timeout=1)


async def _check_signs_of_life(connection: AsyncConnection) -> dict[str, HealthCheck]:
    ages = {row.part: float(row.age_seconds) for row in await connection.execute(list_signs_of_life())}
    checks: dict[str, HealthCheck] = {}
    for part in WATCHED_PARTS:
        age = ages.get(part)
        is_alive = age is not None and age < SILENT_SECONDS
        checks[part] = HealthCheck(
            status="ok" if is_alive else "wrong", age_seconds=None if age is None else round(max(0.0, age), 1)
        )
    return checks


async def _check_canaries(connection: AsyncConnection) -> dict[str, HealthCheck]:
    rows = (await connection.exec_driver_sql(LIST_CANARIES, {"kind": CANARY_KIND})).all()
    return {
        f"queue:{row.queue}": HealthCheck(
            status="ok" if row.age_seconds < LATE_SECONDS else "wrong",
            age_seconds=round(row.age_seconds, 1),
            round_trip_seconds=None if row.round_trip_seconds is None else round(row.round_trip_seconds, 3),
        )
        for row in rows
    }
