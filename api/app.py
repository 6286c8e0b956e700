"""Builds the ASGI application of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.hot_paths import HotPaths
from api.http.cross_origin import allow_origins
from api.http.error_responses import install_error_responses
from api.http.middleware import AllowedMethods, BodyLimit, Frame, allowed_methods
from api.http.protocol import ServerState
from api.http.rate_limits import limiter
from api.http.sign_in_limits import SignInGuard
from api.openapi.document import install_openapi, operation_id
from api.request_log import RequestLog
from api.routes import (
    admin,
    api_keys,
    audit,
    auth,
    batches,
    docs,
    emails,
    events,
    files,
    health,
    index,
    invitations,
    kinds,
    limits,
    metrics,
    oidc,
    organizations,
    problems,
    queues,
    reports,
    schedules,
    task_streams,
    tasks,
    usage,
    users,
    webhook_deliveries,
    webhook_endpoints,
    webhook_secret,
    well_known,
    workers,
    workflows,
)
from api.services import Services
from shared.log_setup import set_up_logs
from shared.settings import Settings, read_settings
from shared.version import VERSION

ROUTERS: tuple[APIRouter, ...] = (
    tasks.router,
    task_streams.router,
    files.router,
    reports.router,
    emails.router,
    batches.router,
    workflows.router,
    events.router,
    schedules.router,
    webhook_endpoints.router,
    webhook_deliveries.router,
    webhook_secret.router,
    api_keys.router,
    organizations.router,
    limits.router,
    usage.router,
    kinds.router,
    queues.router,
    workers.router,
    audit.router,
    auth.router,
    oidc.router,
    users.router,
    invitations.router,
    admin.router,
    well_known.router,
    problems.router,
    health.router,
    index.router,
    metrics.router,
)
DESCRIPTION = """\
Runs a team's background work: submit a task, follow it, and download what it made. A task that was answered with 202 is
stored and is not lost.

Send an API key with every request: `Authorization: Bearer tm_…`. Errors are problem details (RFC 9457). `GET` of
their `type`, such as `/problems/not-found`, explains them."""


def create_fastapi_app(settings: Settings) -> FastAPI:
    """Build the FastAPI application with its routes and services, without the ASGI middleware of `create_app`."""
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[ServerState]:
        await services.open()
        # The connections call this when the server begins to stop; waiting requests are then answered at once.
        yield {"on_stopping": [services.waiters.stop_waiting, services.feed.stop]}
        await services.close()

    app = FastAPI(
        title="Taskmill",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    app.state.services = services
    app.state.hot_paths = services.hot_paths
    app.state.limiter = limiter
    app.state.routers = (*ROUTERS, docs.router) if settings.docs_enabled else ROUTERS
    for router in app.state.routers:
        app.include_router(router)
    allowed = list_allowed_methods(app)
    install_error_responses(app, lambda path: allowed_methods(allowed, path))
    install_openapi(app)
    app.state.schema_document = docs.SchemaDocument(app)
    return app


def create_app(settings: Settings) -> ASGIApp:
    """Build the application with all of its middleware."""
    app = create_fastapi_app(settings)
    hosts = frozenset(host.lower() for host in settings.allowed_hosts)
    framed = Frame(
        HotPathsFirst(
            app.state.hot_paths, SignInGuard(BodyLimit(app, settings.max_json_bytes), app.state.services.sign_in_limits)
        ),
        allowed_hosts=None if "*" in hosts else hosts,
        routes=list_allowed_methods(app),
        log=RequestLog(settings),
    )
    return allow_origins(framed, settings.cors_origins)


class HotPathsFirst:
    """ASGI middleware that passes requests for the hot paths to `HotPaths`, and all others to the application."""

    def __init__(self, hot_paths: HotPaths, app: ASGIApp) -> None:
        self._hot_paths = hot_paths
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] == "http" and self._hot_paths.serves(scope["method"], scope["path"]):
            await self._hot_paths(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def list_allowed_methods(app: FastAPI) -> list[AllowedMethods]:
    """Return the path and methods of each route, for `OPTIONS` and for the header `Allow` of a 405."""
    routes: list[AllowedMethods] = []
    for router in app.state.routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                routes.append((route.path_regex, frozenset(route.methods or ())))
    return routes


def create_app_from_environment() -> ASGIApp:
    """Build the application of a server process."""
    settings = read_settings()
    set_up_logs(settings, "api")
    return create_app(settings)
