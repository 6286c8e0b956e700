"""`GET /`: the page of the documentation for browsers, and the entry points as JSON for programs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import SettingsDependency
from api.http.answers import AnswerModel
from api.http.headers import find_header
from api.http.query_strings import NoQuery
from shared.version import VERSION

router = APIRouter(include_in_schema=False)
VARY = {"Vary": "Accept", "Cache-Control": "no-cache"}


class EntryPoints(AnswerModel):
    """The paths at which a program can begin. The schema describes each of them."""

    name: str
    version: str
    links: dict[str, str]


@router.get("/")
async def get_index(request: Request, settings: SettingsDependency, query: Annotated[NoQuery, Query()]) -> Response:
    """Return the entry points, or redirect a browser to `/docs` if that is enabled."""
    if settings.docs_enabled and _prefers_html(find_header(request, "accept")):
        return Response(status_code=303, headers={"Location": "/docs", **VARY})
    links = {
        "tasks": "/tasks",
        "files": "/files",
        "reports": "/reports",
        "emails": "/emails",
        "kinds": "/kinds",
        "health": "/health",
        "readiness": "/health/ready",
    }
    if settings.docs_enabled:
        links |= {"schema": "/openapi.json", "docs": "/docs"}
    answer = EntryPoints(name="Taskmill", version=VERSION, links=links)
    return Response(answer.model_dump_json(), headers=VARY, media_type="application/json")


def _prefers_html(accept: str | None) -> bool:
    """Return whether `Accept` names HTML before JSON. Browsers name it first; programs send `*/*` or JSON."""
    for media_range in (accept or "").lower().split(","):
        media_type, _, parameters = media_range.partition(";")
        if parameters.replace(" ", "") in {"q=0", "q=0.0"}:
            continue
        if media_type.strip() in {"text/html", "application/xhtml+xml"}:
            return True
        if media_type.strip() in {"application/json", "*/*"}:
            return False
    return False
