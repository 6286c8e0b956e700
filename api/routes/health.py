"""`/health`: whether this process lives; `/health/ready`: whether what it stands on does."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import anyio
import orjson
import redis.asyncio as redis
from fastapi import APIRouter, Query, Request, Response
from kombu.connection import Connection as BrokerConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.ext.asyncio import AsyncEngine

from api.dependencies import ReadsDependency, SettingsDependency, StoreDependency
from api.http.query_strings import NoQuery
from api.openapi.operations import json_response, problem_responses
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


@router.get(
    "/health",
    summary="Whether the process lives",
    responses={**json_response(200, "It does.", "Life"), **problem_responses(422)},
)
async def get_health(request: Request, query: Annotated[NoQuery, Query()]) -> Response:
    """Say that the process lives; asks nothing of others."""
    return _answer(200, {"status": "ok"})


@router.get(
    "/health/ready",
    summary="Whether everything needed is there",
    responses={
        **json_response(200, "It is, save that the broker may be away (`degraded`).", "Readiness"),
        **json_response(503, "Something needed is wrong.", "Readiness"),
        **problem_responses(422),
    },
)
async def get_readiness(
    request: Request,
    settings: SettingsDependency,
    reads: ReadsDependency,
    store: StoreDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Check each part by name: 503 when a needed one is wrong. Without the broker, or with a late queue, work is accepted still."""
    database, storage, broker = await asyncio.gather(
        _check(_ask_database(reads)), _check(_ask_storage(store)), _check(_ask_broker(settings))
    )
    checks = {"database": database, "storage": storage, "broker": broker}
    if database["status"] == "ok":
        checks |= await _ages(reads)
        checks |= await _canaries(reads)
    wrong = {name for name, check in checks.items() if check["status"] != "ok"}
    status = "unavailable" if any(not _may_be_wrong(name) for name in wrong) else "degraded" if wrong else "ok"
    return _answer(503 if status == "unavailable" else 200, {"status": status, "checks": checks})


async def _check(question: Any) -> dict[str, Any]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await question
    except Exception as error:
        return {"status": "wrong", "reason": type(error).__name__}
    return {"status": "ok"}


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


async def _ages(reads: AsyncEngine) -> dict[str, dict[str, Any]]:
    async with reads.connect() as connection:
        ages = {row.part: float(row.age_seconds) for row in await connection.execute(list_signs_of_life())}
    checks: dict[str, dict[str, Any]] = {}
    for part in WATCHED_PARTS:
        age = ages.get(part)
        fresh = age is not None and age < STALE_SECONDS
        checks[part] = {
            "status": "ok" if fresh else "wrong",
            "age_seconds": None if age is None else round(max(0.0, age), 1),
        }
    return checks


def _may_be_wrong(name: str) -> bool:
    """Whether submissions can be accepted all the same."""
    return name == "broker" or name.startswith("queue:")


async def _canaries(reads: AsyncEngine) -> dict[str, dict[str, Any]]:
    """Tell of each queue when something last came through it, and how long that took."""
    async with reads.connect() as connection:
        rows = (await connection.exec_driver_sql(LIST_CANARIES, {"kind": CANARY})).all()
    return {
        f"queue:{row.queue}": {
            "status": "ok" if row.age_seconds < LATE_SECONDS else "wrong",
            "age_seconds": round(row.age_seconds, 1),
            "round_trip_seconds": None if row.round_trip_seconds is None else round(row.round_trip_seconds, 3),
        }
        for row in rows
    }


def _answer(status: int, content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), status, {"Cache-Control": "no-store"}, media_type="application/json")
