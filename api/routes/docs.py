"""`/openapi.json`; `/docs`, the schema as a page in which requests can be tried; and `/docs/examples`.

The page loads everything from this server, because browsers may have no access to the internet.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import orjson
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse, Response

from api.http.conditional import matches_etag
from api.http.headers import find_header
from api.http.problems import Problem
from api.http.query_strings import NoQuery

router = APIRouter(include_in_schema=False)

ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
"""The files that the page loads, and the type of each."""
EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
_FOLDER: Final = Path(str(files("fastapi_offline"))) / "static"
"""That package contains Swagger UI. Its code is not used."""


class SchemaDocument:
    """The schema of an application as JSON, with its entity tag."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    @cached_property
    def content(self) -> bytes:
        """The schema as JSON."""
        return orjson.dumps(self._app.openapi())

    @cached_property
    def etag(self) -> str:
        """A strong entity tag."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


@router.get("/openapi.json")
async def get_schema(request: Request, query: Annotated[NoQuery, Query()]) -> Response:
    """Return the schema, which is generated once in each process."""
    document: SchemaDocument = request.app.state.schema_document
    headers = {"ETag": document.etag, "Cache-Control": "no-cache"}
    if_none_match = find_header(request, "if-none-match")
    if if_none_match is not None and matches_etag(if_none_match, document.etag):
        return Response(status_code=304, headers=headers)
    return Response(document.content, headers=headers, media_type="application/json")


@router.get("/docs")
async def show_docs(request: Request, query: Annotated[NoQuery, Query()]) -> Response:
    """Return the page of the documentation."""
    return HTMLResponse(_render_docs(), headers={"Content-Security-Policy": _docs_policy()})


@cache
def _render_docs() -> bytes:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Taskmill",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    return bytes(page.body)


@cache
def _docs_policy() -> str:
    """Return a policy that allows the page's own script by its hash, and the files of Swagger UI."""
    return (
        f"default-src 'none'; script-src 'self' {_hash_of('script', _render_docs().decode())}; style-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@router.get("/docs/examples/follow.html")
async def show_example(request: Request, query: Annotated[NoQuery, Query()]) -> Response:
    """Return a page that follows a task in a browser."""
    return HTMLResponse(_read_example(), headers={"Content-Security-Policy": _example_policy()})


@cache
def _read_example() -> str:
    return (EXAMPLES / "follow.html").read_text(encoding="utf-8")


@cache
def _example_policy() -> str:
    """Return a policy that allows the script and the style of the page, by their hashes, and requests to this server."""
    page = _read_example()
    return (
        f"default-src 'none'; script-src {_hash_of('script', page)}; style-src {_hash_of('style', page)}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash_of(element: str, page: str) -> str:
    """Return the source, for a content security policy, of the first such element that is written in a page."""
    found = re.search(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    assert found is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


@router.get("/docs/{name}")
async def get_asset(request: Request, name: str, query: Annotated[NoQuery, Query()]) -> Response:
    """Return a file that the page loads."""
    if name not in ASSETS:
        raise Problem("not-found")
    return FileResponse(_FOLDER / name, headers={"Cache-Control": "public, max-age=3600"}, media_type=ASSETS[name])
