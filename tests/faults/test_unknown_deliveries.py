"""An email of which nobody can know ends with that error, whoever ends it: here, those that end it without its worker."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine

from shared.contracts.catalog import list_kinds
from shared.contracts.email.send import KIND
from shared.database import connect_hot, make_engine
from shared.identifiers import new_id
from shared.queries import emails, hot_tasks
from shared.queries import tasks as queries
from shared.settings import Settings
from shared.task_options import TaskOptions
from shared.task_submission import make_task, submission_document
from shared.verification import verify

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
    """Make a task whose worker is gone: `a` has a receipt, of `b` nobody knows."""
    owner = new_id()
    options = TaskOptions(max_attempts=max_attempts)
    task = make_task("email.send", list_kinds()["email.send"], PARAMS, "email", options, owner, owner)
    hot.execute(hot_tasks.SUBMIT, {"document": submission_document([task])})
    hot.execute(hot_tasks.CLAIM, {"ids": f"{{{task.id}}}", "claims": f"{{{secrets.randbits(63)}}}", "lease": -1})
    intent_id = new_id()
    accepted: emails.ReceiptRow = {"recipient": "a@example.com", "status": "accepted", "code": 250, "reply": "Taken"}
    with engine.begin() as connection:
        both = ["a@example.com", "b@example.com"]
        connection.execute(emails.insert_intent(intent_id, task.id, attempt=1, message_id="<m@x>", recipients=both))
        connection.execute(emails.insert_receipts(intent_id, task.id, [accepted]))
    return task.id


def sweep(hot: Hot, task_id: UUID) -> None:
    assert hot.execute(queries.SWEEP, {"limit": 10}).fetchone() == (task_id, "failed")


def cancel_while_running(hot: Hot, task_id: UUID) -> None:
    hot.execute(queries.CANCEL, {"ids": [task_id]})
    assert hot.execute(queries.SWEEP, {"limit": 10}).fetchone() == (task_id, "cancelled")


def cancel_before_the_next_attempt(hot: Hot, task_id: UUID) -> None:
    assert hot.execute(queries.SWEEP, {"limit": 10}).fetchone() == (task_id, "retrying")
    hot.execute(queries.CANCEL, {"ids": [task_id]})


def expire_before_the_next_attempt(hot: Hot, task_id: UUID) -> None:
    assert hot.execute(queries.SWEEP, {"limit": 10}).fetchone() == (task_id, "retrying")
    hot.execute("UPDATE tasks SET expires_at = now()")
    assert hot.execute(queries.EXPIRE, {"limit": 10}).fetchone() == (task_id,)


@pytest.mark.parametrize(
    ("end", "max_attempts", "status"),
    [
        (sweep, 1, "failed"),
        (cancel_while_running, 8, "cancelled"),
        (cancel_before_the_next_attempt, 8, "cancelled"),
        (expire_before_the_next_attempt, 8, "expired"),
    ],
)
def test_a_delivery_that_nobody_knows_of_is_told_by_whoever_ends_the_task(
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


def test_an_email_that_a_person_gave_up_ends_as_what_it_is(hot: Hot, engine: Engine) -> None:
    task_id = lose_an_email(hot, engine, max_attempts=1)
    with engine.begin() as connection:
        connection.execute(emails.mark_unknown_as_retriable(task_id))

    sweep(hot, task_id)

    assert hot.execute("SELECT error->>'type' FROM task_payloads").fetchone() == ("/problems/worker-lost",)
