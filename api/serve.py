"""Runs the API under uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import socket
import sys
from typing import Any, Final

import psycopg
import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from api.http.protocol import HttpProtocol
from api.process_supervisor import ProcessSupervisor
from shared.database.schema_version import MIGRATE_FIRST, newest_revision, require_known_schema
from shared.log_setup import set_up_logs
from shared.settings import Settings

IDLE_CONNECTION_SECONDS = 75
REQUEST_GRACE_SECONDS = 10
"""How long a stopping server waits for requests that have begun."""
PROCESS_STOP_SECONDS = 3 * REQUEST_GRACE_SECONDS
"""How long one of several processes may take to stop before it is killed."""
MAX_WEB_SOCKET_MESSAGE_BYTES: Final = 64 << 10
"""A larger message closes its WebSocket. Routes answer smaller ones that they do not accept."""
PROTOCOLS: Final[dict[str, Any]] = {
    "http": HttpProtocol,
    "ws": "websockets-sansio",
    "ws_max_size": MAX_WEB_SOCKET_MESSAGE_BYTES,
    # Compression would take some 300 KiB of memory for each connection, for messages of some hundred bytes.
    "ws_per_message_deflate": False,
}
"""The arguments of uvicorn that say how connections are read and written."""
BACKLOG = 2048
ACCEPT_DRAIN_TICKS: Final = 3
"""How many turns of the event loop accept waiting connections before the listening socket is closed."""
log = structlog.get_logger()


class ApiServer(uvicorn.Server):
    """A server that logs its address, and that accepts waiting connections before it stops."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and log where."""
        await super().startup(sockets)
        if self.started:
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            log.info("api_started", url=f"http://{host}:{self.config.port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that the kernel holds for this process, and stop as uvicorn does.

        Closing the listening socket resets connections that are not accepted. If the process was suspended for a while, the
        signal to stop and new connections may arrive in the same turn of its event loop.
        """
        for _ in range(ACCEPT_DRAIN_TICKS):
            await asyncio.sleep(0)
        await super().shutdown(sockets)


def serve(settings: Settings, host: str, port: int, workers: int) -> None:
    """Serve until a signal to stop, then answer the requests that have begun, for up to `REQUEST_GRACE_SECONDS`.

    Raises `SchemaTooNew`. Starts even if the database is away or not migrated: until then, requests are answered with 503.
    """
    set_up_logs(settings, "api")
    raise_open_file_limit()
    _check_schema(settings)
    config = uvicorn.Config(
        "api.app:create_app_from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        **PROTOCOLS,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_keep_alive=IDLE_CONNECTION_SECONDS,
        timeout_graceful_shutdown=REQUEST_GRACE_SECONDS,
        backlog=BACKLOG,
    )
    if workers > 1:
        listening = config.bind_socket()
        run = functools.partial(_run_one_of_several, config)
        supervisor = ProcessSupervisor(run, listening, workers, STARTUP_FAILURE, PROCESS_STOP_SECONDS)
        if exit_code := supervisor.run():
            sys.exit(exit_code)
        return
    server = ApiServer(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _run_one_of_several(config: uvicorn.Config, sockets: list[socket.socket]) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        ApiServer(config).run(sockets)


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit, because each connection of a client is an open file.

    Systems set the soft limit to 1,024 for programs that call `select`, which the API does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS refuses more than the kernel's own limit, which it does not show as the hard one.
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _check_schema(settings: Settings) -> None:
    """Log it if the database is not migrated to this version. Raises `SchemaTooNew` and `ConfigurationError`."""
    try:
        found = require_known_schema(settings)
    except psycopg.OperationalError:
        return
    if found != newest_revision():
        log.warning("database_not_migrated", revision=found, needed=newest_revision(), todo=MIGRATE_FIRST)
