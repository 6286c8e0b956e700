"""The Celery application: its queues, its limits, and how it connects to the broker again.

Celery carries ids and shows the work to Flower. It stores, schedules, retries and revokes nothing (`docs/decisions/`).
"""

from __future__ import annotations

import logging
import ssl
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import celery.apps.worker
from celery import Celery, signals
from celery.app.amqp import AMQP
from celery.exceptions import CPendingDeprecationWarning
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from shared.contracts.kind import QUEUES
from shared.outage_log import OutageLog
from shared.settings import Settings

SOCKET_TIMEOUT_SECONDS = 10
LONGEST_PAUSE_SECONDS = 2.0


class ReturningConnection(Connection):
    """A connection that is made again soon after its broker is back, however long the broker was away.

    Celery lets the pauses between its tries grow to half a minute, and has no setting for it.
    """

    outage: OutageLog

    def ensure_connection(
        self, errback: Callable[[Exception, float], object] | None = None, *args: Any, **options: Any
    ) -> Connection:
        """Try until there is a connection, with short pauses, and log the outage."""
        pauses = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": LONGEST_PAUSE_SECONDS}

        def on_error(error: Exception, pause_seconds: float) -> None:
            self.outage.warn(error)
            if errback is not None:
                errback(error, pause_seconds)

        super().ensure_connection(on_error, *args, **{**pauses, **options})  # type: ignore[no-untyped-call]
        self.outage.end()
        return self


def _make_amqp_class(outage: OutageLog) -> type[AMQP]:
    """Return the class from which Celery takes the class of its connections."""
    connection_class = type("LoggedConnection", (ReturningConnection,), {"outage": outage})
    return type("ReturningAmqp", (AMQP,), {"Connection": connection_class})


def make_celery_app(settings: Settings) -> Celery:
    """Return the application for the broker in the settings."""
    signals.setup_logging.connect(_set_up_celery_logs)
    signals.celeryd_after_setup.connect(_ignore_celery_warnings)
    app = Celery(
        "taskmill", broker=settings.broker_url, set_as_current=False, amqp=_make_amqp_class(OutageLog("broker"))
    )
    options: dict[str, Any] = {"visibility_timeout": 3600}
    if settings.broker_is_redis:
        if urlsplit(settings.broker_url).scheme == "rediss":
            # By default kombu accepts any certificate.
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
        # The relay publishes a task again when no worker claims it, so no message needs to be acknowledged.
        task_queues=[Queue(name, nameless, routing_key=name, no_ack=True) for name in QUEUES],
        # Celery's own default is a queue `celery`, which Flower would show although nothing uses it.
        task_default_queue=QUEUES[0],
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
        worker_enable_remote_control=settings.worker_remote_control,
        enable_utc=True,
        timezone="UTC",
    )
    _unregister_built_in_tasks(app)
    return app


def _unregister_built_in_tasks(app: Celery) -> None:
    """Remove the tasks that Celery registers itself, such as chords: nothing of Taskmill uses them."""
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        app.tasks.unregister(name)


def _set_up_celery_logs(**_: Any) -> None:
    """Keep the logs as `shared.log_setup` made them: without a receiver of this signal, Celery sets up its own.

    What Celery's consumer would log is dropped: each try to connect, which `ReturningConnection` logs as an outage, and
    messages that it cannot use, with their bodies.
    """
    logging.getLogger("celery.worker.consumer.consumer").setLevel(logging.CRITICAL)
    # Celery prints lines of its own when it is told to stop. The worker logs `worker_stopped`.
    celery.apps.worker.safe_say = _say_nothing


def _ignore_celery_warnings(**_: Any) -> None:
    """Ignore what Celery plans for later versions, which it logs in full at each lost connection.

    Celery switches these warnings on when it has set up its logs.
    """
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)


def _say_nothing(*_: Any) -> None:
    """Print nothing."""
