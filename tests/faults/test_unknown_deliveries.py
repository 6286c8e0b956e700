"""An email whose delivery is unknown ends with that error, also when its task ends without its handler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest
from sqlalchemy import Engine

from shared.contracts.catalog import list_kinds
from shared.contracts.email.send import KIND
from shared.database.connections import connect_hot, make_engine
from shared.identifiers import new_id
from shared.queries import emails, hot_tasks
from shared.queries import relay as relay_queries
from shared.queries import tasks as queries
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, submission_document
from shared.verification import verify
from tests.claims import claim_tasks
from workers.relay.chores import SweptTask

Hot = psycopg.Connection[tuple[Any, ...]]
PARAMS = b'{"to": ["a@example.com", "b@example.com"], "subject": "S", "text": "T"}'


@pytest.fixture
def hot(settings: Settings) -> Iterator[Hot]:
    with connect_hot(settings, "test") as connection:
        yield connection


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings, "test")
    yield engine
    engine.dispose()


def lose_an_email(hot: Hot, engine: Engine, *, max_attempts: int) -> UUID:
    """Return a task whose lease is over. There is a receipt for `a`, and the delivery to `b` is unknown."""
    owner = new_id()
    options = TaskOptions(max_attempts=max_attempts)
    task = make_task("email.send", list_kinds()["email.send"], PARAMS, "email", options, owner, owner)
    hot.execute(hot_tasks.SUBMIT, {"document": submission_document([task])})
    claim_tasks(hot, [task.id], lease_seconds=-1)
    intent_id = new_id()
    accepted: emails.ReceiptRow = {"recipient": "a@example.com", "status": "accepted", "code": 250, "reply": "Taken"}
    with engine.begin() as connection:
        both = ["a@example.com", "b@example.com"]
        connection.execute(emails.insert_intent(intent_id, task.id, attempt=1, message_id="<m@x>", recipients=both))
        connection.execute(emails.insert_receipts(intent_id, task.id, [accepted]))
    return task.id


def sweep(hot: Hot, task_id: UUID, status: str = "failed") -> None:
    row = hot.execute(relay_queries.SWEEP, {"limit": 10}).fetchone()
    assert row is not None
    swept = SweptTask._make(row)
    assert (swept.id, swept.status) == (task_id, status)


def cancel_while_running(hot: Hot, task_id: UUID) -> None:
    hot.execute(queries.CANCEL, {"ids": [task_id]})
    sweep(hot, task_id, "cancelled")


def cancel_before_the_next_attempt(hot: Hot, task_id: UUID) -> None:
    sweep(hot, task_id, "retrying")
    hot.execute(queries.CANCEL, {"ids": [task_id]})


def finish(hot: Hot, task_id: UUID, status: str, error_type: str | None, data: dict[str, Any] | None = None) -> None:
    """Write the end of the attempt as the worker does."""
    claim = hot.execute("SELECT claim FROM tasks WHERE id = %s", (task_id,)).fetchone()
    assert claim is not None
    ending: dict[str, Any] = {"id": task_id, "claim": claim[0], "status": status, "delay": 1}
    if error_type is not None:
        ending["error"] = {"type": error_type, "title": "T", "detail": "D", "attempt": 1, "data": data or {}}
    assert hot.execute(hot_tasks.FINISH_ANY, {"document": orjson.dumps([ending]).decode()}).fetchone() is not None


def requeue_after_a_cancel(hot: Hot, task_id: UUID) -> None:
    hot.execute(queries.CANCEL, {"ids": [task_id]})
    finish(hot, task_id, "queued", None)


def defer_after_a_cancel(hot: Hot, task_id: UUID) -> None:
    hot.execute(queries.CANCEL, {"ids": [task_id]})
    finish(hot, task_id, "retrying", "/problems/mail-deferred")


def end_as_cancelled(hot: Hot, task_id: UUID) -> None:
    finish(hot, task_id, "cancelled", "/problems/cancelled")


def fail_with_an_internal_error(hot: Hot, task_id: UUID) -> None:
    finish(hot, task_id, "failed", "/problems/internal-error")


def expire_before_the_next_attempt(hot: Hot, task_id: UUID) -> None:
    sweep(hot, task_id, "retrying")
    hot.execute("UPDATE tasks SET expires_at = now()")
    assert hot.execute(relay_queries.EXPIRE, {"limit": 10}).fetchone() == (task_id,)


@pytest.mark.parametrize(
    ("end", "max_attempts", "status"),
    [
        (sweep, 1, "failed"),
        (cancel_while_running, 8, "cancelled"),
        (cancel_before_the_next_attempt, 8, "cancelled"),
        (expire_before_the_next_attempt, 8, "expired"),
        (requeue_after_a_cancel, 8, "cancelled"),
        (defer_after_a_cancel, 8, "cancelled"),
        (end_as_cancelled, 8, "cancelled"),
        (fail_with_an_internal_error, 1, "failed"),
    ],
)
def test_an_unknown_delivery_is_the_error_however_the_task_ends(
    hot: Hot, engine: Engine, settings: Settings, end: Callable[[Hot, UUID], None], max_attempts: int, status: str
) -> None:
    task_id = lose_an_email(hot, engine, max_attempts=max_attempts)

    end(hot, task_id)

    row = hot.execute(
        "SELECT status, error FROM tasks JOIN task_payloads ON task_id = id WHERE id = %s", (task_id,)
    ).fetchone()
    assert row is not None
    assert row[0] == status
    assert (row[1]["type"], row[1]["attempt"]) == ("/problems/delivery-unknown", 1)
    assert row[1]["data"]["recipients"] == [
        {"address": "a@example.com", "status": "accepted", "code": 250, "reply": "Taken"},
        {"address": "b@example.com", "status": "unknown", "code": None, "reply": ""},
    ]
    assert "delivery-unknown" in KIND.errors
    assert verify(settings).sound


def test_an_intent_that_was_given_up_does_not_change_the_error(hot: Hot, engine: Engine) -> None:
    task_id = lose_an_email(hot, engine, max_attempts=1)
    with engine.begin() as connection:
        connection.execute(emails.mark_unknown_as_retriable([task_id]))

    sweep(hot, task_id)

    assert hot.execute("SELECT error->>'type' FROM task_payloads").fetchone() == ("/problems/worker-lost",)


DEFERRED: emails.ReceiptRow = {"recipient": "b@example.com", "status": "deferred", "code": 451, "reply": "Later"}


def test_the_error_has_the_outcome_of_each_recipient(hot: Hot, engine: Engine) -> None:
    task_id = lose_an_email(hot, engine, max_attempts=8)
    with engine.begin() as connection:
        ((intent_id, _, _),) = connection.execute(emails.list_intents(task_id)).all()
        connection.execute(emails.insert_receipts(intent_id, task_id, [DEFERRED]))

    expire_before_the_next_attempt(hot, task_id)

    (error,) = hot.execute("SELECT error FROM task_payloads WHERE task_id = %s", (task_id,)).fetchone() or ({},)
    assert (error["type"], error["attempt"]) == ("/problems/expired", 1)
    assert error["data"]["recipients"] == [
        {"address": "a@example.com", "status": "accepted", "code": 250, "reply": "Taken"},
        {"address": "b@example.com", "status": "deferred", "code": 451, "reply": "Later"},
    ]


def test_the_outcomes_that_the_handler_returned_are_kept(hot: Hot, engine: Engine) -> None:
    task_id = lose_an_email(hot, engine, max_attempts=1)
    data = {"recipients": [{"address": "c@example.com"}]}

    finish(hot, task_id, "failed", "/problems/delivery-unknown", data)

    assert hot.execute("SELECT error->'data' FROM task_payloads WHERE task_id = %s", (task_id,)).fetchone() == (data,)
