"""Rings: puts Celery messages that bear task ids, and nothing else, into the broker's queues."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.contracts.catalog import find_kind
from shared.errors import ConfigurationError
from shared.settings import Settings

BROKER_ERRORS: Final = (redis.RedisError, OSError)
"""What a broker that is away, full or frozen raises."""
MAX_IDS_IN_A_MESSAGE: Final = 25
LEAST_MESSAGES_IN_A_RING: Final = 2
"""So many messages at least, if there are tasks for it: several workers share what is rung at once."""
MARKER_KEY: Final = "taskmill:rung-by"
TIMEOUT_SECONDS: Final = 2.0
_ID: Final = "%TASK-ID%"
_IDS: Final = '"%TASK-IDS%"'


class Doorbell:
    """The broker, seen from the relay: Redis or Valkey."""

    def __init__(self, settings: Settings, app: Celery) -> None:
        if not settings.broker_is_redis:
            raise ConfigurationError("TASKMILL_BROKER_URL must be a Redis or Valkey: redis://… or rediss://…")
        self._app = app
        self._redis = redis.Redis.from_url(
            settings.broker_url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            health_check_interval=5,
            # Once more, for a connection that went stale; then the relay has other things to do than to wait.
            retry=Retry(NoBackoff(), 1),
        )
        self._templates: dict[tuple[str, str], str] = {}

    def ring(self, queue: str, due: Sequence[tuple[str, str]]) -> None:
        """Publish (task id, kind) in their order, in one command. Raises one of `BROKER_ERRORS`.

        Tasks of one kind that is declared short may share a message.
        """
        self._redis.lpush(queue, *self._messages(queue, due))

    def _messages(self, queue: str, due: Sequence[tuple[str, str]]) -> Iterable[str]:
        together = max(1, min(MAX_IDS_IN_A_MESSAGE, len(due) // LEAST_MESSAGES_IN_A_RING))
        group: list[str] = []
        group_kind = ""
        for task_id, kind in due:
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
        """Let Celery make the message once, and kombu's form for Redis be put around it."""
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
        """Ask whether the broker answers. Raises one of `BROKER_ERRORS` when it does not."""
        self._redis.ping()

    def depth(self, queue: str) -> int:
        """Give how many messages lie in a queue."""
        return self._redis.llen(queue)

    def find_oldest(self, queue: str) -> UUID | None:
        """Give the first task of the message that will be received next, if there is one that can be read."""
        message = self._redis.lindex(queue, -1)
        try:
            headers = json.loads(message or "")["headers"]
            return UUID((headers.get("ids") or [headers["id"]])[0])
        except (ValueError, TypeError, LookupError, AttributeError):
            return None

    def has_forgotten(self) -> bool:
        """Whether the broker may have lost messages since `remember`: it was flushed, restarted, or replaced."""
        return self._redis.get(MARKER_KEY) != self._run_id()

    def remember(self) -> None:
        """Leave a mark in the broker that is lost with its messages."""
        self._redis.set(MARKER_KEY, self._run_id())

    def _run_id(self) -> bytes:
        information: dict[str, Any] = self._redis.info("server")
        return str(information["run_id"]).encode()

    def publish(self, channel: str, message: bytes) -> None:
        """Publish a wake-up."""
        self._redis.publish(channel, message)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _is_short(kind_name: str) -> bool:
    kind = find_kind(kind_name)
    return kind is not None and kind.short
