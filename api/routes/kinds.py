"""`GET /kinds`: what the caller may submit."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from api.dependencies import TaskReaderCaller
from api.http.answers import private_json
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import json_response, kind_schemas, problem_responses
from shared.contracts.catalog import list_kinds

router = APIRouter(tags=["kinds"])


@router.get(
    "/kinds",
    summary="List every kind that the caller may submit",
    responses={
        **json_response(200, "The kinds.", "Kinds"),
        **problem_responses(401, 403, 422, 429, 503),
    },
)
@limited("read")
async def list_submittable_kinds(
    request: Request, caller: TaskReaderCaller, query: Annotated[NoQuery, Query()]
) -> Response:
    """Give each kind with the schemas of its params and result."""
    schemas = kind_schemas()
    items = [
        {
            "kind": name,
            "queue": kind.default_queue,
            "title": kind.title,
            "description": kind.description,
            "params_schema": schemas[name]["params"],
            "result_schema": schemas[name]["result"],
            "max_attempts": kind.max_attempts,
            "timeout": kind.timeout_seconds,
            "available": True,
            "reason": None,
        }
        for name, kind in list_kinds().items()
        if kind.public and (caller.privileged or not kind.privileged)
    ]
    return private_json(orjson.dumps({"items": items}))
