"""Helpers for answers that depend on the caller: cache headers, models, timestamps."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema

PRIVATE_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "private, no-cache",
    "Vary": "Authorization, X-API-Key, Prefer",
}
"""The cache headers of every answer that depends on the caller."""


def private_json(body: bytes, status: int = 200, headers: Mapping[str, Any] | None = None) -> Response:
    """Return a JSON response that depends on the caller."""
    return Response(body, status, {**PRIVATE_HEADERS, **(headers or {})}, media_type="application/json")


def json_page(items: list[Any], next_cursor: str | None) -> bytes:
    """Return one page of a list as JSON; `items` are JSON fragments or plain values."""
    return orjson.dumps({"items": items, "next_cursor": next_cursor})


def timestamp(moment: datetime | None) -> str | None:
    """Return a moment as RFC 3339 in UTC with milliseconds, or None for None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


class AnswerModel(BaseModel):
    """The base of the models of answers. The OpenAPI schema is generated from them, and they have no undeclared fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Moment = Annotated[
    datetime,
    PlainSerializer(timestamp, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A moment. Answers contain it in the form of `timestamp`."""

Path = Annotated[str, WithJsonSchema({"type": "string", "format": "uri-reference"})]
"""A URI reference without a host, such as `/tasks/<id>`."""


def private_answer(model: AnswerModel, status: int = 200, headers: Mapping[str, Any] | None = None) -> Response:
    """Return a model as a JSON response that depends on the caller. Fields that were not set are left out."""
    return private_json(model.model_dump_json(exclude_unset=True).encode(), status, headers)
