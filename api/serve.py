"""Runs the API under uvicorn."""

from __future__ import annotations

import uvicorn

from api.http_protocol import HttpProtocol
from shared.log_setup import set_up_logs
from shared.schema_version import refuse_newer_schema
from shared.settings import Settings

KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 10
BACKLOG = 2048


def serve(settings: Settings, host: str, port: int, workers: int) -> None:
    """Serve until told to stop; then finish what has begun, for up to ten seconds. Raises `SchemaTooNew`."""
    set_up_logs(settings, "api")
    refuse_newer_schema(settings)
    uvicorn.run(
        "api.app:create_app_from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers if workers > 1 else None,
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
