"""`docs/permissions.md` shows the table of permissions and the routes as they are in the code."""

from __future__ import annotations

from fastapi.routing import APIRoute, APIWebSocketRoute

from api.app import ROUTERS
from api.auth.route_permissions import list_permissions, needs_person
from api.openapi.permission_tables import BEGIN, DOCUMENT, render_tables
from tests.api.test_routes import OPEN

ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute | APIWebSocketRoute)]


def test_the_document_has_the_tables_of_the_code() -> None:
    _, begin, written = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)

    assert begin + written == render_tables(ROUTES), "run `python -m api.openapi.permission_tables`"


def test_only_open_routes_need_no_permission() -> None:
    open_routes = {
        (method, route.path)
        for route in ROUTES
        if not list_permissions(route) and not needs_person(route)
        for method in (route.methods or () if isinstance(route, APIRoute) else ["WebSocket"])
    }

    assert open_routes == OPEN
