"""The doorbell: puts Celery messages, which carry task ids and nothing else, into the broker's queues."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.contracts.catalog import find_kind
from shared.errors import ConfigurationError
from shared.outage_log import OutageLog
from shared.settings import Settings
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, encode_task_ids
from workers.celery_events import find_end_event

BROKER_ERRORS: Final = (redis.RedisError, OSError)
"""What calls raise while the broker is away, full or frozen."""
MAX_IDS_IN_A_MESSAGE: Final = 25
LEAST_MESSAGES: Final = 2
"""Tasks that are published together come in so many messages at least, so that several workers share them."""
MARKER_KEY: Final = "taskmill:rung-by"
TIMEOUT_SECONDS: Final = 2.0
WORKER_LOST: Final = "/problems/worker-lost"
_ID: Final = "%TASK-ID%"
_IDS: Final = '"%TASK-IDS%"'


class LostAttempt(NamedTuple):
    """An attempt whose lease was lost: its worker can send no event any more."""

    task_id: UUID
    worker: str
    status: str
    """The status of the task since the sweep."""


class Doorbell:
    """The broker as the relay uses it: Redis or Valkey."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        if not settings.broker_is_redis:
            raise ConfigurationError("TASKMILL_BROKER_URL must name a Redis or Valkey server: redis://… or rediss://…")
        self.outage = OutageLog("broker")
        """Logs that the broker failed, and that it works again. For those who call the doorbell."""
        self._app = app
        self._redis = redis.Redis.from_url(
            settings.broker_url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            health_check_interval=5,
            # One retry, for a connection that went stale. The relay must not wait longer.
            retry=Retry(NoBackoff(), 1),
        )
        self._templates: dict[tuple[str, str], str] = {}

    def publish(self, queue: str, tasks: Sequence[tuple[str, str]]) -> None:
        """Publish tasks, each as (id, kind), in their order and by one command. Raises one of `BROKER_ERRORS`.

        Tasks of one kind that is declared short may share a message.
        """
        self._redis.lpush(queue, *self._messages(queue, tasks))

    def _messages(self, queue: str, tasks: Sequence[tuple[str, str]]) -> Iterable[str]:
        together = max(1, min(MAX_IDS_IN_A_MESSAGE, len(tasks) // LEAST_MESSAGES))
        group: list[str] = []
        group_kind = ""
        for task_id, kind in tasks:
            if group and (kind != group_kind or len(group) >= together or not _is_short(kind)):
                yield self._message(queue, group_kind, group)
                group = []
            group_kind = kind
            group.append(task_id)
        if group:
            yield self._message(queue, group_kind, group)

    def _message(self, queue: str, kind: str, task_ids: list[str]) -> str:
        template = self._templates.get((queue, kind))
        if template is None:
            template = self._templates[queue, kind] = self._make_template(queue, kind)
        return template.replace(_ID, task_ids[0]).replace(_IDS, json.dumps(task_ids))

    def _make_template(self, queue: str, kind: str) -> str:
        """Return a message of this kind with placeholders for the ids: Celery's message in kombu's envelope for Redis."""
        task = self._app.amqp.as_task_v2(_ID, kind, args=(), kwargs={}, ignore_result=True)
        headers = {**task.headers, "ids": _IDS.strip('"'), "origin": "relay"}
        body = base64.b64encode(json.dumps(task.body).encode()).decode()
        return json.dumps(
            {
                "body": body,
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": headers,
                "properties": {
                    **task.properties,
                    "delivery_mode": 2,
                    "delivery_info": {"exchange": "", "routing_key": queue},
                    "priority": 0,
                    "body_encoding": "base64",
                    "delivery_tag": _ID,
                },
            }
        )

    def ping(self) -> None:
        """Raise one of `BROKER_ERRORS` unless the broker answers."""
        self._redis.ping()

    def depth(self, queue: str) -> int:
        """Return how many messages are in a queue."""
        return self._redis.llen(queue)

    def has_lost_content(self) -> bool:
        """Return whether the broker may have lost messages since `store_marker`: it was flushed, restarted or replaced."""
        return self._redis.get(MARKER_KEY) != self._run_id()

    def store_marker(self) -> None:
        """Store a marker in the broker that is lost together with its messages."""
        self._redis.set(MARKER_KEY, self._run_id())

    def _run_id(self) -> bytes:
        information: dict[str, Any] = self._redis.info("server")
        return str(information["run_id"]).encode()

    def wake_waiters(self, task_ids: Sequence[UUID]) -> None:
        """Publish a wake-up for the requests that wait for one of these tasks. Raises one of `BROKER_ERRORS`."""
        if task_ids:
            self._redis.publish(WAKEUP_CHANNEL, encode_task_ids(task_ids))

    def has_event_receivers(self) -> bool:
        """Return whether a program receives Celery events: it subscribes to a pattern of channels. Raises `BROKER_ERRORS`."""
        return bool(self._redis.pubsub_numpat())

    def send_events(self, attempts: Iterable[LostAttempt]) -> None:
        """Send the events with which lost attempts end, in the names of their workers, if a program such as Flower receives any.

        Otherwise Flower would show their tasks as started for ever. Raises one of `BROKER_ERRORS`.
        """
        lost = list(attempts)
        if not lost or not self.has_event_receivers():
            return
        with self._app.connection_for_write() as connection:
            timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), TIMEOUT_SECONDS)
            connection.transport_options = {**connection.transport_options, **timeouts, "retry_on_timeout": False}
            for attempt in lost:
                event = find_end_event(attempt.status, WORKER_LOST)
                assert event is not None, "no lost attempt is a success"
                with self._app.events.Dispatcher(
                    connection, hostname=attempt.worker, buffer_while_offline=False
                ) as dispatcher:
                    dispatcher.send(event.type, uuid=str(attempt.task_id), **event.fields)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _is_short(kind_name: str) -> bool:
    kind = find_kind(kind_name)
    return kind is not None and kind.short
