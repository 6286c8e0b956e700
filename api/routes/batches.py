"""`/batches`: how far a batch is, and cancelling what is left of it."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.authentication import Caller
from api.dependencies import NoBody, ReadsDependency, TaskActionsDependency, TaskReaderCaller, TaskWriterCaller
from api.http.answers import private_json, timestamp
from api.http.problems import Problem
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import json_response, problem_responses
from shared.queries.batches import count_batch
from shared.tasks.states import LIVE

router = APIRouter(tags=["batches"])


@router.get(
    "/batches/{batch_id}",
    summary="See how far a batch is",
    responses={**json_response(200, "The batch.", "BatchState"), **problem_responses(401, 403, 404, 422, 429, 503)},
)
@limited("read")
async def get_batch(
    request: Request,
    batch_id: UUID,
    caller: TaskReaderCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return how many of the batch's tasks have each status."""
    return private_json(orjson.dumps(await _count(reads, caller, batch_id)))


@router.post(
    "/batches/{batch_id}/cancel",
    status_code=202,
    summary="Cancel what is left of a batch",
    responses={
        **json_response(202, "The batch.", "BatchState"),
        **problem_responses(401, 403, 404, 415, 422, 429, 503),
    },
)
@limited("submit")
async def cancel_batch(
    request: Request,
    batch_id: UUID,
    caller: TaskWriterCaller,
    reads: ReadsDependency,
    actions: TaskActionsDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Cancel the tasks of the batch that are not done."""
    await _count(reads, caller, batch_id)
    await actions.cancel_batch(batch_id)
    return private_json(orjson.dumps(await _count(reads, caller, batch_id)), 202)


async def _count(reads: AsyncEngine, caller: Caller, batch_id: UUID) -> dict[str, Any]:
    async with reads.connect() as connection:
        rows = (await connection.execute(count_batch(batch_id))).all()
    if not rows or not caller.sees(rows[0].organization_id):
        raise Problem("not-found")
    live = any(row.status in LIVE for row in rows)
    return {
        "id": str(batch_id),
        "total": sum(row.count for row in rows),
        "counts": {row.status: row.count for row in rows},
        "created_at": timestamp(min(row.created_at for row in rows)),
        "finished_at": None if live else timestamp(max(row.finished_at for row in rows)),
    }
