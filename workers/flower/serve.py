"""Serves Flower, where operators watch workers, queues and tasks, in this process and behind a password.

Flower's own command would take the password from its arguments, which everyone on the machine can read, or from a file.
Here it is set up as a library instead. It only watches: its buttons (revoke, apply, rate limit) would bypass Postgres,
which has the truth about each task, so they are switched off. Tasks are cancelled and retried through the API.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any, NoReturn

import structlog
from flower.app import Flower
from flower.options import options
from flower.urls import settings as web_settings
from tornado.web import RequestHandler

from shared.log_setup import set_up_logs
from shared.outage_log import OutageLog
from shared.settings import Settings
from workers.celery_app import make_celery_app
from workers.flower.login import LoginThrottle, are_credentials, find_client_address, read_credentials
from workers.flower.queues import Backlog, BacklogLengths, BacklogPage

REMEMBERED_TASKS = 10_000
FORGET_WORKER_AFTER_SECONDS = 300

log = structlog.get_logger(__name__)


def run_flower(settings: Settings) -> NoReturn:
    """Serve Flower on `flower_host:flower_port` until SIGTERM or SIGINT, which end the process.

    Raises `ConfigurationError` when the user or the password cannot be sent as Basic credentials (RFC 7617), and
    `OSError` when the port is not free. While the broker or the database is away, Flower serves what it has.
    """
    credentials = read_credentials(settings)
    set_up_logs(settings, "flower")
    _quieten_logs()
    prefix = settings.flower_url_prefix.strip("/")
    options.address = settings.flower_host
    options.port = settings.flower_port
    options.url_prefix = prefix
    # Flower opens its HTTP API only where it knows of a password itself.
    options.basic_auth = [credentials]
    options.read_only = True
    # Where workers obey no remote control, they notice by themselves that Flower receives events.
    options.enable_events = settings.worker_remote_control
    options.persistent = False
    options.auto_refresh = True
    options.purge_offline_workers = FORGET_WORKER_AFTER_SECONDS
    options.max_tasks = REMEMBERED_TASKS

    server = _GuardedFlower(
        settings, credentials, capp=make_celery_app(settings), options=options, **_make_web_settings(prefix)
    )
    server.start_http_server()
    log.info("flower_started", host=settings.flower_host, port=settings.flower_port)
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        server.io_loop.asyncio_loop.add_signal_handler(stop_signal, server.stop)
    server.start()
    log.info("flower_stopped")
    # The interpreter would wait for threads that ask the workers for their state, without end while the broker is away.
    # They hold nothing that must be closed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class _GuardedFlower(Flower):  # type: ignore[misc]  # Flower has no types
    """Flower that asks for the password everywhere but at its health check, and shows the backlog from Postgres.

    By itself Flower shows `/metrics` to everyone, answers credentials that are not ASCII with an internal error, and lets
    anyone guess passwords as fast as it answers.
    """

    def __init__(self, settings: Settings, credentials: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._credentials = credentials
        self._trusted_proxies = settings.forwarded_allow_ips
        self._throttle = LoginThrottle()
        prefix = self.options.url_prefix
        self._base = f"/{prefix}" if prefix else ""
        self._backlog = {"backlog": Backlog(settings)}

    def find_handler(self, request: Any, **arguments: Any) -> Any:
        """Return what answers a request."""
        if request.path == f"{self._base}/healthcheck":
            return super().find_handler(request, **arguments)
        header = request.headers.get("Authorization")
        forwarded_for = request.headers.get("X-Forwarded-For", "")
        address = find_client_address(request.remote_ip, forwarded_for, self._trusted_proxies)
        if header is not None and (seconds := self._throttle.blocked_seconds(address)):
            return self.get_handler_delegate(request, _TooManyRefusals, {"seconds": seconds})
        if not are_credentials(header or "", self._credentials):
            if header is not None:
                self._throttle.count_refusal(address)
                log.warning("flower_credentials_refused", address=address)
            return self.get_handler_delegate(request, _CredentialsRequired)
        if request.path == f"{self._base}/broker":
            return self.get_handler_delegate(request, BacklogPage, self._backlog)
        if request.path == f"{self._base}/api/queues/length":
            return self.get_handler_delegate(request, BacklogLengths, self._backlog)
        return super().find_handler(request, **arguments)


class _CredentialsRequired(RequestHandler):
    """The handler of requests without valid credentials, for every method."""

    def prepare(self) -> None:
        """Answer 401."""
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="flower", charset="UTF-8"')
        self.finish("Access denied\n")


class _TooManyRefusals(RequestHandler):
    """Refuses to check credentials, whatever the method of the request."""

    def initialize(self, seconds: int) -> None:
        """Store after how many seconds the client may try again."""
        self._seconds = seconds

    def prepare(self) -> None:
        """Answer 429."""
        self.set_status(429)
        self.set_header("Retry-After", str(self._seconds))
        self.finish(f"Too many wrong passwords came from this address. Try again in {self._seconds} seconds.\n")


class _OutageFilter(logging.Filter):
    """Turns Flower's lines about its connection to the broker into lines about an outage."""

    def __init__(self) -> None:
        super().__init__()
        self._outage = OutageLog("broker")

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the record after reading it, unless it is about something else."""
        if "Capturing events" in str(record.msg):
            self._outage.end()
        elif "Failed to capture events" in str(record.msg) and isinstance(record.args, tuple):
            self._outage.warn(record.args[0] if isinstance(record.args[0], Exception) else ConnectionError())
        elif record.levelno >= logging.WARNING and "Failed to enable events" not in str(record.msg):
            return True
        return False


def _make_web_settings(prefix: str) -> dict[str, Any]:
    own = dict(web_settings)
    if prefix:
        for name in ("login_url", "static_url_prefix"):
            own[name] = f"/{prefix}{own[name]}"
    return own


def _quieten_logs() -> None:
    """Keep what operators need to know about Flower, and drop its lines about each request and each worker."""
    for library in ("tornado.access", "tornado.general"):
        logging.getLogger(library).setLevel(logging.ERROR)
    # Each worker that does not answer in time is a warning of its own, every few seconds.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    # The reason is logged as an outage of the database.
    logging.getLogger("flower.views.broker").setLevel(logging.CRITICAL)
    events = logging.getLogger("flower.events")
    events.setLevel(logging.DEBUG)
    events.addFilter(_OutageFilter())
