"""Runs the API under uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from api.http.protocol import HttpProtocol
from shared.database.schema_version import refuse_newer_schema
from shared.log_setup import set_up_logs
from shared.settings import Settings

KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 10
BACKLOG = 2048
TURNS_AT_THE_DOOR: Final = 3


class ApiServer(uvicorn.Server):
    """Takes who is at the door already before it closes the door."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept what the kernel has taken for this process, which closing would reset; then stop as uvicorn does.

        A process that had to wait for the processor finds its time over and callers at the door in the same turn of its
        loop, and the clock comes first.
        """
        for _ in range(TURNS_AT_THE_DOOR):
            await asyncio.sleep(0)
        await super().shutdown(sockets)


class ApiProcess(multiprocess.Process):
    """One of several processes, with such a server."""

    @property
    def server(self) -> uvicorn.Server:
        """The server that runs in the process."""
        if self._server is None:
            self._server = ApiServer(self.config)
        return self._server


class ProcessSupervisor(multiprocess.Multiprocess):
    """Runs several processes on one listening socket."""

    def terminate_all(self) -> None:
        """Let every process stop, with nobody left who keeps the socket open: the kernel would go on to take connections
        that no process accepts, and reset them in the end.
        """
        for listening in self.sockets:
            listening.close()
        super().terminate_all()


def serve(settings: Settings, host: str, port: int, workers: int) -> None:
    """Serve until told to stop; then finish what has begun, for up to ten seconds. Raises `SchemaTooNew`."""
    set_up_logs(settings, "api")
    refuse_newer_schema(settings)
    config = uvicorn.Config(
        "api.app:create_app_from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )
    if workers > 1:
        # uvicorn's supervisor makes its processes of this class, by its name.
        multiprocess.Process = ApiProcess  # type: ignore[misc]
        ProcessSupervisor(config, sockets=[config.bind_socket()]).run()
        return
    server = ApiServer(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)
