"""How the engine uses Celery: its consumer receives messages, its pool runs attempts, and its events tell Flower of them.

A message only announces that tasks of its queue are published; the claimer asks Postgres which is next. So Celery never
decodes a message's body or chooses a task by its name, and a task becomes a Celery request once it is claimed. Messages are
never acknowledged: the relay publishes again what nobody claims.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

import structlog
from celery import Celery
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer
from celery.worker.request import Request, create_request_cls

from shared.contracts.catalog import list_kinds
from shared.queries.canaries import CANARY_KIND
from workers.celery_events import find_end_event
from workers.engine.attempt import Attempt
from workers.engine.claiming import Claimer
from workers.engine.event_receivers import EventReceivers

log = structlog.get_logger()

_EMPTY_BODY: Final[tuple[list[Any], dict[str, Any], dict[str, Any]]] = ([], {}, {})
_HEADERS: Final[dict[str, Any]] = {
    "lang": "py",
    "argsrepr": "()",
    "kwargsrepr": "{}",
    "retries": 0,
    "eta": None,
    "expires": None,
    "group": None,
    "parent_id": None,
    "shadow": None,
    "timelimit": (None, None),
    "ignore_result": True,
}
CONSUMER_TICK_SECONDS: Final = 1.0
EVENT_TIMEOUT_SECONDS: Final = 1.0
"""How long sending events may wait for the broker. Events that could not be sent are sent later."""


class ClaimedMessage(NamedTuple):
    """What Celery's request reads of a message. Any message of the queue may have announced the task."""

    delivery_info: dict[str, Any]
    properties: dict[str, Any]


class UnrevokedRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A request that Celery's `revoke` does not affect: callers cancel tasks in the database.

    A task that was claimed and then not executed would be claimed again, and again.
    """

    attempt: Attempt | None = None

    def revoked(self) -> bool:
        """Return False."""
        return False

    def send_event(self, type: str, **fields: Any) -> None:
        """Send an event that says how the attempt ended: to Celery each succeeds, since none raises an error.

        Nothing is sent of canaries, and nothing of an attempt that was requeued before it
        began: `announce_requeue` has sent that, and another worker may run the task by now.
        """
        attempt = self.attempt
        if attempt is not None and (attempt.task.kind == CANARY_KIND or attempt.was_withdrawn):
            return
        if type == "task-succeeded" and attempt is not None:
            type, fields = find_end_event(attempt.end_status, attempt.error_type) or (type, fields)
        super().send_event(type, **fields)


class CeleryPool:
    """Executes claimed tasks in the pool of this process's Celery worker, as tasks of their kinds' names."""

    def __init__(self, app: Celery, run: Callable[[str], None]) -> None:
        """Register every kind; `run` is called with a task's id, in a thread of the pool."""
        self._app = app
        self._consumer: Any = None
        self.loop_ran_at = float("-inf")
        """When the consumer's loop ran last, by the monotonic clock: it does not run while the broker is away."""

        def run_claimed(task: Any) -> None:
            run(task.request.id)

        for name in list_kinds():
            app.task(run_claimed, name=name, bind=True, ignore_result=True, shared=False)

    def attach(self, consumer: Any) -> None:
        """Use the pool and the event dispatcher of this consumer, which has just connected."""
        self._consumer = consumer
        self._request_class = cache(self._make_request_class)

    def execute(self, attempt: Attempt) -> None:
        """Pass an attempt to the pool, and send the event that its task was received."""
        consumer, task_id = self._consumer, attempt.task_id
        request = self._request_class(attempt.task.kind)(
            ClaimedMessage({"exchange": "", "routing_key": attempt.task.queue}, {}),
            on_ack=_do_nothing,
            on_reject=_do_nothing,
            app=self._app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=self._app.tasks[attempt.task.kind],
            connection_errors=consumer.connection_errors,
            body=_EMPTY_BODY,
            headers={**_HEADERS, "task": attempt.task.kind, "id": task_id, "root_id": task_id},
            decoded=True,
            utc=True,
        )
        request.attempt = attempt
        request.send_event(
            "task-received",
            name=attempt.task.kind,
            args="()",
            kwargs="{}",
            root_id=task_id,
            parent_id=None,
            retries=0,
            eta=None,
            expires=None,
        )
        worker_state.task_reserved(request)
        request.execute_using_pool(consumer.pool)

    def announce_requeue(self, attempt: Attempt) -> None:
        """Send the event that ends an attempt which was requeued before it began."""
        dispatcher = self._consumer.event_dispatcher if self._consumer is not None else None
        event = find_end_event("queued")
        if event and dispatcher and dispatcher.enabled and attempt.task.kind != CANARY_KIND:
            dispatcher.send(event.type, uuid=attempt.task_id, **event.fields)

    def _make_request_class(self, kind: str) -> Any:
        consumer = self._consumer
        return create_request_cls(
            UnrevokedRequest,
            self._app.tasks[kind],
            consumer.pool,
            consumer.hostname,
            consumer.event_dispatcher,
            app=self._app,
        )


class AnnouncementConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, for messages that announce tasks. `bind_consumer` sets its parts."""

    claimer: Claimer
    celery_pool: CeleryPool
    receivers: EventReceivers
    _pipe: tuple[int, int] | None = None
    _has_timer = False

    def create_task_handler(self, **_: Any) -> Callable[[Any], None]:
        """Return what is called with each message. Celery calls this each time that it has connected."""
        self.celery_pool.attach(self)
        self._consume_only_when_wanted()
        if not self._has_timer:
            self._has_timer = True
            self.timer.call_repeatedly(CONSUMER_TICK_SECONDS, self._on_tick)
        self._on_tick()
        return self._on_message

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop a message that cannot be decoded. Celery would log its body."""
        log.warning("message_dropped", error=type(exc).__name__)

    def _on_tick(self) -> None:
        """Note that the loop runs, and switch the events of tasks on or off."""
        self.celery_pool.loop_ran_at = time.monotonic()
        if self.app.conf.worker_enable_remote_control:
            # Then the receiver of events switches them on itself, by a command.
            return
        if self.receivers.exist:
            self.event_dispatcher.groups.add("task")
        else:
            self.event_dispatcher.groups.discard("task")

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Return a connection for sending events, with a short timeout: they are sent in the consumer's loop and in slots."""
        connection = self.app.connection_for_write(url=url, heartbeat=heartbeat)
        timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), EVENT_TIMEOUT_SECONDS)
        connection.transport_options = {**connection.transport_options, **timeouts, "retry_on_timeout": False}
        return self.ensure_connected(connection)

    def _on_message(self, message: Any) -> None:
        headers, delivery_info = message.headers, message.delivery_info
        if not isinstance(headers, dict) or not isinstance(delivery_info, dict):
            return
        ids = headers.get("ids")
        self.claimer.announce(str(delivery_info.get("routing_key")), len(ids) if isinstance(ids, list) else 1)

    def _consume_only_when_wanted(self) -> None:
        """Configure the channel to read messages from the broker only while the claimer wants them.

        In each iteration of its loop, kombu calls `qos.can_consume` before it reads from the broker. When messages are
        wanted again, a byte in a pipe wakes the loop.
        """
        self.task_consumer.channel.qos.can_consume = self.claimer.wants_messages
        if self._pipe is None:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
            self.claimer.on_messages_wanted = self._wake_loop
        self.hub.add_reader(self._pipe[0], self._empty_pipe)

    def _wake_loop(self) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipe[1], b"!")

    def _empty_pipe(self) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):
            os.read(self._pipe[0], 4096)


def bind_consumer(claimer: Claimer, pool: CeleryPool, receivers: EventReceivers) -> type[AnnouncementConsumer]:
    """Return a class of consumers that work with these parts: Celery makes the consumer itself."""
    parts = {"claimer": claimer, "celery_pool": pool, "receivers": receivers}
    return type("BoundConsumer", (AnnouncementConsumer,), parts)


def _do_nothing(*_: Any, **__: Any) -> None:
    """Acknowledge nothing."""
