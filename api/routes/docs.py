"""`/docs`: the schema as a page to read and try, with everything on it from this server: there may be no other network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, Response

from api.http.problems import Problem
from api.http.query_strings import NoQuery

router = APIRouter(prefix="/docs", include_in_schema=False)

ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
"""What the page loads, and the type of each."""
_FOLDER: Final = Path(str(files("fastapi_offline"))) / "static"
"""Swagger UI as that package brings it; of its code nothing is used."""


@router.get("")
async def show_docs(request: Request, query: Annotated[NoQuery, Query()]) -> Response:
    """Show the page."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Taskmill",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )


@router.get("/{name}")
async def get_asset(request: Request, name: str, query: Annotated[NoQuery, Query()]) -> Response:
    """Give what the page loads."""
    if name not in ASSETS:
        raise Problem("not-found")
    return FileResponse(_FOLDER / name, headers={"Cache-Control": "public, max-age=3600"}, media_type=ASSETS[name])
