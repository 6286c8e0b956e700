"""The Celery application: queues, limits, and how it holds on to its broker.

Celery carries ids and shows the work to Flower; it stores, schedules, retries and revokes nothing (`docs/decisions/`).
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, signals
from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from shared.contracts.kind import QUEUES
from shared.settings import Settings

SOCKET_TIMEOUT_SECONDS = 10
LONGEST_PAUSE_SECONDS = 2.0


class ReturningConnection(Connection):
    """A connection that is made again soon after its broker is back, however long that was away.

    Celery lets the pauses between its tries grow to half a minute, and has no setting for it.
    """

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        """Try until there is a connection, with short pauses."""
        pauses = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": LONGEST_PAUSE_SECONDS}
        super().ensure_connection(*args, **{**pauses, **options})  # type: ignore[no-untyped-call]
        return self


class ReturningAMQP(AMQP):  # type: ignore[misc]  # Celery has no types
    """What makes Celery's connections."""

    Connection = ReturningConnection


def make_celery_app(settings: Settings) -> Celery:
    """Make the application for the broker that the settings name."""
    signals.setup_logging.connect(_leave_logs_alone)
    app = Celery("taskmill", broker=settings.broker_url, set_as_current=False, amqp=ReturningAMQP)
    options: dict[str, Any] = {"visibility_timeout": 3600}
    if settings.broker_is_redis:
        if urlsplit(settings.broker_url).scheme == "rediss":
            # Left to itself kombu believes any certificate.
            app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        options |= {
            "health_check_interval": 5,
            "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
            "socket_timeout": SOCKET_TIMEOUT_SECONDS,
            "socket_keepalive": True,
            "retry_on_timeout": True,
        }
    # Messages go to the default exchange: after a FLUSHALL kombu silently drops what goes to a named one.
    nameless = Exchange("", type="direct")
    app.conf.update(
        # A message is only a doorbell, which the relay rings again when no one answers, so none is acknowledged.
        task_queues=[Queue(name, nameless, routing_key=name, no_ack=True) for name in QUEUES],
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=options,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=1,
        worker_disable_rate_limits=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        enable_utc=True,
        timezone="UTC",
    )
    return app


def _leave_logs_alone(**_: Any) -> None:
    """Keep the logs as `shared.log_setup` made them: Celery sets the level of the root logger unless someone answers."""
