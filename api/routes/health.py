"""`/health`: whether this process lives; `/health/ready`: whether what it stands on does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Final, Literal

import anyio
import redis.asyncio as redis
from fastapi import APIRouter, Query, Request, Response
from kombu.connection import Connection as BrokerConnection
from pydantic import Field
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.ext.asyncio import AsyncEngine

from api.dependencies import ReadsDependency, SettingsDependency, StoreDependency
from api.http.answers import AnswerModel
from api.http.query_strings import NoQuery
from api.openapi.operations import problem_responses
from shared.queries.canaries import LIST_CANARIES
from shared.queries.signs_of_life import PING, list_signs_of_life
from shared.settings import Settings
from shared.storage.object_store import ObjectStore

router = APIRouter(tags=["health"])
CHECK_SECONDS: Final = 2.0
STALE_SECONDS: Final = 15.0
CANARY: Final = "platform.canary"
LATE_SECONDS: Final = 60.0
"""So long after its last canary's return a queue is late: busy, without a worker, or with one that does not consume."""
WATCHED_PARTS: Final = ("relay", "sweeper", "beat")


class Life(AnswerModel):
    """The process answers requests."""

    status: Literal["ok"]


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


@router.get(
    "/health",
    summary="Check that the process answers",
    response_model=Life,
    response_description="The process answers requests.",
    responses=problem_responses("validation"),
)
async def get_health(request: Request, query: Annotated[NoQuery, Query()]) -> Response:
    """Answer 200 as long as the process runs. Neither the database nor the broker is asked."""
    return _answer(200, Life(status="ok"))


@router.get(
    "/health/ready",
    summary="Check that submissions can be accepted",
    response_model=Readiness,
    response_description="Submissions are accepted. If the status is `degraded`, a check of another part failed.",
    responses={
        503: {"model": Readiness, "description": "The database or the storage failed its check."},
        **problem_responses("validation"),
    },
)
async def get_readiness(
    request: Request,
    settings: SettingsDependency,
    reads: ReadsDependency,
    store: StoreDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Check each part that the API depends on. Answers 503 when the database or the storage fails.

    While the broker is away or a queue is late, submissions are still accepted, and their work is delayed.
    """
    database, storage, broker = await asyncio.gather(
        _check(_ask_database(reads)), _check(_ask_storage(store)), _check(_ask_broker(settings))
    )
    checks = {"database": database, "storage": storage, "broker": broker}
    if database.status == "ok":
        checks |= await _ages(reads)
        checks |= await _canaries(reads)
    wrong = {name for name, check in checks.items() if check.status != "ok"}
    if any(not _may_be_wrong(name) for name in wrong):
        return _answer(503, Readiness(status="unavailable", checks=checks))
    return _answer(200, Readiness(status="degraded" if wrong else "ok", checks=checks))


async def _check(question: Awaitable[None]) -> HealthCheck:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await question
    except Exception as error:
        return HealthCheck(status="wrong", reason=type(error).__name__)
    return HealthCheck(status="ok")


async def _ask_database(reads: AsyncEngine) -> None:
    async with reads.connect() as connection:
        await connection.execute(PING)


async def _ask_storage(store: ObjectStore) -> None:
    await anyio.to_thread.run_sync(store.check, abandon_on_cancel=True)


async def _ask_broker(settings: Settings) -> None:
    url = settings.broker_url
    if settings.broker_is_redis:
        once = Retry(NoBackoff(), 0)
        async with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1, retry=once) as client:
            await client.ping()
    else:
        await anyio.to_thread.run_sync(_ask_kombu, url, abandon_on_cancel=True)


def _ask_kombu(url: str) -> None:
    with BrokerConnection(url, connect_timeout=1) as connection:
        connection.ensure_connection(max_retries=1, timeout=1)


async def _ages(reads: AsyncEngine) -> dict[str, HealthCheck]:
    async with reads.connect() as connection:
        ages = {row.part: float(row.age_seconds) for row in await connection.execute(list_signs_of_life())}
    checks: dict[str, HealthCheck] = {}
    for part in WATCHED_PARTS:
        age = ages.get(part)
        fresh = age is not None and age < STALE_SECONDS
        checks[part] = HealthCheck(
            status="ok" if fresh else "wrong", age_seconds=None if age is None else round(max(0.0, age), 1)
        )
    return checks


def _may_be_wrong(name: str) -> bool:
    """Whether submissions can be accepted all the same."""
    return name == "broker" or name.startswith("queue:")


async def _canaries(reads: AsyncEngine) -> dict[str, HealthCheck]:
    """Tell of each queue when something last came through it, and how long that took."""
    async with reads.connect() as connection:
        rows = (await connection.exec_driver_sql(LIST_CANARIES, {"kind": CANARY})).all()
    return {
        f"queue:{row.queue}": HealthCheck(
            status="ok" if row.age_seconds < LATE_SECONDS else "wrong",
            age_seconds=round(row.age_seconds, 1),
            round_trip_seconds=None if row.round_trip_seconds is None else round(row.round_trip_seconds, 3),
        )
        for row in rows
    }


def _answer(status: int, answer: Life | Readiness) -> Response:
    body = answer.model_dump_json(exclude_unset=True)
    return Response(body, status, {"Cache-Control": "no-store"}, media_type="application/json")
