"""How Celery hands messages to the engine: a `Task.Strategy`, Celery's own extension point.

A message bears the ids of one or more tasks. Each becomes a Celery request, so that Flower and remote control see what
they know, but it is executed only once the task is claimed; acknowledgements are answered with nothing.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

from celery import Celery
from celery.worker import state as worker_state
from celery.worker.request import Request, create_request_cls

from shared.contracts.catalog import list_kinds
from workers.engine.attempt import Attempt, ClaimedTask
from workers.engine.claiming import Claimer


class Engine:
    """What the strategy, and the tasks that it leads to, share in one worker process."""

    claimer: Claimer
    run: Callable[[Attempt], None]
    attempts: dict[str, Attempt]
    bell: tuple[int, int] | None = None
    """A pipe whose reading end the consumer's loop watches."""


engine = Engine()


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


EVENTS: Final = {"failed": "task-failed", "retrying": "task-retried"}
"""What Celery calls it when an attempt does not succeed."""


class UnrevokedRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A request that Celery's `revoke` does not touch: a caller cancels, and the database knows of it.

    A task that is claimed here and then not executed would only be claimed again, and again.
    """

    attempt: Attempt | None = None

    def revoked(self) -> bool:
        """Never."""
        return False

    def send_event(self, type: str, **fields: Any) -> None:
        """Tell those who watch how the attempt ended: to Celery each succeeds, for none raises an error.

        Of an error only its type is told.
        """
        if type == "task-succeeded" and self.attempt is not None:
            status, error = self.attempt.ended_as
            if status in EVENTS:
                type, fields = EVENTS[status], {"exception": error, "traceback": None}
            elif status == "cancelled":
                type, fields = "task-revoked", {"terminated": True, "signum": None, "expired": False}
        super().send_event(type, **fields)


def _read_ids(headers: Any) -> Iterator[uuid.UUID]:
    """Give the ids that a message bears; what is none is passed over."""
    ids = headers.get("ids") or (headers.get("id"),)
    for task_id in ids if isinstance(ids, (list, tuple)) else ():
        if isinstance(task_id, str):
            with contextlib.suppress(ValueError):
                yield uuid.UUID(task_id)


def engine_strategy(task: Any, app: Celery, consumer: Any, **_: Any) -> Callable[..., Any]:
    """Make the handler of a kind's messages."""
    request_class = create_request_cls(
        UnrevokedRequest, task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=app
    )
    events = consumer.event_dispatcher

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        _consume_only_when_wanted(consumer.hub, message.channel)
        for parsed_id in _read_ids(message.headers):
            task_id = str(parsed_id)
            request = request_class(
                message,
                on_ack=_nothing,
                on_reject=_nothing,
                app=app,
                hostname=consumer.hostname,
                eventer=events,
                task=task,
                connection_errors=consumer.connection_errors,
                # Of the message nothing is taken but ids: what else it says could be anything, and none of it is needed.
                body=_EMPTY_BODY,
                headers={**_HEADERS, "task": task.name, "id": task_id, "root_id": task_id},
                decoded=True,
                utc=True,
            )
            if events and events.enabled:
                events.send(
                    "task-received",
                    uuid=task_id,
                    name=task.name,
                    args="()",
                    kwargs="{}",
                    root_id=task_id,
                    parent_id=None,
                    retries=0,
                    eta=None,
                    expires=None,
                )
            engine.claimer.offer(parsed_id, (request, consumer.pool))

    return on_message


def execute_claimed(task: ClaimedTask, offered: Any) -> None:
    """Let Celery's pool execute a claimed task."""
    request, pool = offered
    request.attempt = engine.attempts.get(str(task.id))
    worker_state.task_reserved(request)
    request.execute_using_pool(pool)


def _consume_only_when_wanted(hub: Any, channel: Any) -> None:
    """Let the channel ask for messages only while the claimer wants ids.

    kombu asks `qos.can_consume` at each turn of its loop before it asks the broker; a byte through a pipe makes the loop
    turn when ids are wanted again.
    """
    qos = channel.qos
    if getattr(qos, "asks_the_claimer", False):
        return
    qos.asks_the_claimer = True
    qos.can_consume = engine.claimer.wants_more
    if engine.bell is None:
        engine.bell = os.pipe()
        for end in engine.bell:
            os.set_blocking(end, False)
        engine.claimer.on_hungry = _turn_the_loop
    hub.add_reader(engine.bell[0], _drain, engine.bell[0])


def _turn_the_loop() -> None:
    assert engine.bell is not None
    with contextlib.suppress(BlockingIOError):
        os.write(engine.bell[1], b"!")


def _drain(end: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(end, 4096)


def _nothing(*_: Any, **__: Any) -> None:
    """Acknowledge nothing: a message is only a doorbell."""


def register_kinds(app: Celery) -> None:
    """Make a Celery task of every kind, under the kind's name."""

    def run_claimed(self: Any) -> None:
        # One that has waited for too long was handed back in the meantime.
        if attempt := engine.attempts.get(self.request.id):
            engine.run(attempt)

    for name in list_kinds():
        app.task(
            run_claimed,
            name=name,
            bind=True,
            ignore_result=True,
            Strategy="workers.engine.celery_strategy:engine_strategy",
        )
