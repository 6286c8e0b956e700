"""Flower, where operators watch the workers, queues and tasks: in this process, and behind a password.

Flower's own command would take the password from its arguments, which everyone on the machine can read, or from a file.
Here it is set up as a library instead. It only watches: what its buttons do (revoke, apply, rate-limit) would go past
Postgres, where the truth about a task is kept, so they are switched off. Cancelling and retrying is done over the API.
"""

from __future__ import annotations

import hmac
import logging
import os
import signal
import sys
from base64 import b64decode
from typing import Any, NoReturn

import structlog
from flower.app import Flower
from flower.options import options
from flower.urls import settings as web_settings
from tornado.web import RequestHandler

from shared.errors import ConfigurationError
from shared.settings import Settings
from workers.celery_app import make_celery_app

REMEMBERED_TASKS = 10_000
FORGET_WORKER_AFTER_SECONDS = 300

log = structlog.get_logger(__name__)


def run_flower(settings: Settings) -> NoReturn:
    """Serve Flower on `flower_host:flower_port` until SIGTERM or SIGINT, which end the process.

    Raises `ConfigurationError` when the user or the password cannot be sent as basic credentials (RFC 7617), and
    `OSError` when the port is taken. A broker that is down is waited for.
    """
    credentials = _credentials(settings)
    _quieten_logs()
    prefix = settings.flower_url_prefix.strip("/")
    options.address = settings.flower_host
    options.port = settings.flower_port
    options.url_prefix = prefix
    # Flower opens its HTTP API only where it knows of a password itself.
    options.basic_auth = [credentials]
    options.read_only = True
    options.persistent = False
    options.auto_refresh = True
    options.purge_offline_workers = FORGET_WORKER_AFTER_SECONDS
    options.max_tasks = REMEMBERED_TASKS

    server = _GuardedFlower(
        credentials,
        f"/{prefix}/healthcheck" if prefix else "/healthcheck",
        capp=make_celery_app(settings),
        options=options,
        **_web_settings(prefix),
    )
    server.start_http_server()
    log.info("flower_started", host=settings.flower_host, port=settings.flower_port)
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        server.io_loop.asyncio_loop.add_signal_handler(stop_signal, server.stop)
    server.start()
    log.info("flower_stopped")
    # The interpreter would wait here for threads that ask the workers for news, for ever if the broker is down. They
    # hold nothing that is worth an orderly end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class _GuardedFlower(Flower):  # type: ignore[misc]  # Flower has no types.
    """Flower that asks for the password everywhere but at its health check.

    By itself it shows `/metrics` to everyone, and answers credentials that are not ASCII with an error of its own.
    """

    def __init__(self, credentials: str, open_path: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._credentials = credentials.encode()
        self._open_path = open_path

    def find_handler(self, request: Any, **arguments: Any) -> Any:
        """Choose who answers a request."""
        if request.path != self._open_path and not self._accepts(request.headers.get("Authorization", "")):
            return self.get_handler_delegate(request, _Refusal)
        return super().find_handler(request, **arguments)

    def _accepts(self, header: str) -> bool:
        scheme, _, encoded = header.partition(" ")
        try:
            given = b64decode(encoded.strip(), validate=True)
        except ValueError:
            return False
        return scheme == "Basic" and hmac.compare_digest(given, self._credentials)


class _Refusal(RequestHandler):
    """Asks for credentials, whatever the method."""

    def prepare(self) -> None:
        """Answer before any method is looked at."""
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="flower", charset="UTF-8"')
        self.finish("Access denied\n")


def _credentials(settings: Settings) -> str:
    user, password = settings.flower_user, settings.flower_password.get_secret_value()
    for name, value in (("TASKMILL_FLOWER_USER", user), ("TASKMILL_FLOWER_PASSWORD", password)):
        if not value or not value.isascii() or not value.isprintable():
            raise ConfigurationError(f"{name} must be of printable ASCII characters, and at least one")
    if ":" in user:
        raise ConfigurationError("TASKMILL_FLOWER_USER must not have a colon: it would end there")
    return f"{user}:{password}"


def _web_settings(prefix: str) -> dict[str, Any]:
    own = dict(web_settings)
    if prefix:
        for name in ("login_url", "static_url_prefix"):
            own[name] = f"/{prefix}{own[name]}"
    return own


def _quieten_logs() -> None:
    """Leave what operators need to know of Flower, and none of its lines for each request."""
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    logging.getLogger("flower").setLevel(logging.WARNING)
    # Each worker that does not answer in time is a warning of its own, every few seconds.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
