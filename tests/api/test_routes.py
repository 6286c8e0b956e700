"""Every route has a rate limit, or is in the list of routes that need no credentials."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.routing import APIRoute

from api.app import ROUTERS, create_fastapi_app
from api.http.rate_limits import LIMITED_MARK, ROUTE_CLASSES
from api.openapi.document import OPEN_AUTH_PATHS
from shared.settings import Settings

OPEN = {
    *(("GET", path) for path in ("/", "/health", "/health/ready", "/problems/{name}", "/.well-known/jwks.json")),
    *(("GET" if path.startswith("/auth/oidc/") else "POST", path) for path in OPEN_AUTH_PATHS),
}
"""Routes that need no credentials, besides those of `api/routes/docs.py`, which is not among `ROUTERS`."""
HOT = {("POST", "/tasks"), ("GET", "/tasks/{task_id}")}
"""The routes that `api/hot_paths.py` answers, and counts for the rate limits."""
Endpoint = Callable[..., Any]
CLASSES = {"GET": "read", "POST": "submit", "PATCH": "submit", "PUT": "submit", "DELETE": "submit"}

ROUTES = [
    (method, route.path, route.endpoint)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
]


def test_every_route_belongs_to_a_router(settings: Settings) -> None:
    others = {
        getattr(route, "path", "") for router in ROUTERS for route in router.routes if not isinstance(route, APIRoute)
    }
    of_fastapi = {path for route in create_fastapi_app(settings).routes if (path := getattr(route, "path", ""))}

    assert others == {"/tasks/{task_id}/ws", "/events/ws"}
    assert of_fastapi <= {path for _, path, _ in ROUTES} | others
    assert len(ROUTES) == len({(method, path) for method, path, _ in ROUTES}) == 113


@pytest.mark.parametrize(
    ("method", "path", "endpoint"), ROUTES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_route_is_limited_or_listed_as_open(method: str, path: str, endpoint: Endpoint) -> None:
    route_class = getattr(endpoint, LIMITED_MARK, None)

    if (method, path) in OPEN | HOT:
        assert route_class is None
        return
    assert route_class in ROUTE_CLASSES
    assert route_class == ("upload" if (method, path) == ("POST", "/files") else CLASSES[method])
    assert "caller" in inspect.signature(endpoint).parameters


@pytest.mark.parametrize(
    ("method", "path", "endpoint"), ROUTES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_route_refuses_unknown_query_parameters(method: str, path: str, endpoint: Endpoint) -> None:
    takes_a_query = "query" in inspect.signature(endpoint).parameters

    # Routes that submit read their only parameter themselves, and so do the hot paths.
    assert takes_a_query or method == "POST"
