"""How Celery hands messages to the engine: a `Task.Strategy`, Celery's own extension point.

A message bears the ids of one or more tasks. Each becomes a Celery request, so that Flower and remote control see what
they know, but it is executed only once the task is claimed; acknowledgements are answered with nothing.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker import state as worker_state
from celery.worker.request import Request, create_request_cls

from shared.contracts.catalog import list_kinds
from workers.attempt import Attempt, ClaimedTask
from workers.claiming import Claimer


class Engine:
    """What the strategy, and the tasks that it leads to, share in one worker process."""

    claimer: Claimer
    run: Callable[[Attempt], None]
    attempts: dict[str, Attempt]
    bell: tuple[int, int] | None = None
    """A pipe whose reading end the consumer's loop watches."""


engine = Engine()


def engine_strategy(task: Any, app: Celery, consumer: Any, **_: Any) -> Callable[..., Any]:
    """Make the handler of a kind's messages."""
    request_class = create_request_cls(
        Request, task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=app
    )
    events = consumer.event_dispatcher

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        _consume_only_when_wanted(consumer.hub, message.channel)
        for task_id in message.headers.get("ids") or (message.headers["id"],):
            try:
                parsed_id = uuid.UUID(task_id)
            except ValueError:
                continue
            request = request_class(
                message,
                on_ack=_nothing,
                on_reject=_nothing,
                app=app,
                hostname=consumer.hostname,
                eventer=events,
                task=task,
                connection_errors=consumer.connection_errors,
                body=message.body,
                headers={**message.headers, "id": task_id, "root_id": task_id},
                decoded=False,
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
    engine.attempts[str(task.id)] = Attempt(task)
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
        engine.run(engine.attempts[self.request.id])

    for name in list_kinds():
        app.task(
            run_claimed, name=name, bind=True, ignore_result=True, Strategy="workers.celery_strategy:engine_strategy"
        )
