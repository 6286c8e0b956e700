"""A task's life under every interleaving that Hypothesis finds: whatever claims, ends, sweeps, expires, cancels, retries,
purges, or comes too late, on the real Postgres, beside a model of what may be.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine

from shared.contracts.catalog import list_kinds
from shared.database.connections import connect_hot, make_engine
from shared.identifiers import new_id
from shared.queries import hot_tasks, publishing
from shared.queries import relay as relay_queries
from shared.queries import tasks as queries
from shared.queries.purging import erase_tasks
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, submission_document
from shared.verification import find_broken_rows
from tests.claims import claim_tasks
from workers.relay.chores import SweptTask

DONE = {"succeeded", "failed", "cancelled", "expired"}
ERROR = {"type": "/problems/internal-error", "title": "t", "detail": "d", "retryable": True, "attempt": 1, "data": {}}


@dataclass
class Model:
    """The expected state of one task."""

    status: str
    attempt: int = 0
    max_attempts: int = 2
    claim: int | None = None
    cancel_requested: bool = False

    def end(self, status: str) -> None:
        """An attempt, or the sweeper, ends what runs."""
        if status in {"queued", "retrying"} and self.cancel_requested:
            status = "cancelled"
        self.attempt -= status == "queued"
        self.status, self.claim = status, None


@dataclass(frozen=True)
class Held:
    """The claims that a worker takes for valid."""

    task_id: UUID
    claim: int


class Life(RuleBasedStateMachine):
    hot: psycopg.Connection[Any]
    engine: Engine
    tasks = Bundle("tasks")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.hot.execute(
            "TRUNCATE tasks, task_payloads, task_events, task_files, files, tombstones, unique_tasks, idempotency_keys"
        )
        self.models: dict[UUID, Model] = {}
        self.gone: set[UUID] = set()

    @rule(target=tasks, later=st.booleans())
    def submit(self, later: bool) -> UUID:
        owner = new_id()
        options = TaskOptions(max_attempts=2, delay=3600 if later else None)
        task = make_task("platform.ping", list_kinds()["platform.ping"], b"{}", "files", options, owner, owner)
        self.hot.execute(hot_tasks.SUBMIT, {"document": submission_document([task])})
        self.models[task.id] = Model("scheduled" if later else "queued")
        return task.id

    @rule(target=claims, task_id=tasks)
    def claim(self, task_id: UUID) -> Held:
        claim = secrets.randbits(63)
        taken = claim_tasks(self.hot, [task_id], lease_seconds=3600, claims=[claim])
        model = self.models.get(task_id)
        assert bool(taken) == (model is not None and model.status == "queued")
        if model is not None and taken:
            model.status, model.claim = "running", claim
            model.attempt += 1
        return Held(task_id, claim)

    def holds(self, held: Held) -> Model | None:
        """The model of a task, if the claim still is the task's."""
        model = self.models.get(held.task_id)
        return model if model is not None and model.claim == held.claim else None

    @rule(held=claims)
    def renew(self, held: Held) -> None:
        parameters = {"ids": f"{{{held.task_id}}}", "claims": f"{{{held.claim}}}", "lease": 3600}
        renewed = self.hot.execute(hot_tasks.RENEW, parameters).fetchall()
        model = self.holds(held)
        assert [row[1] for row in renewed] == ([model.cancel_requested] if model else [])

    @rule(held=claims, percent=st.integers(0, 100))
    def report_progress(self, held: Held, percent: int) -> None:
        parameters = {"id": held.task_id, "claim": held.claim, "percent": percent, "message": None}
        assert bool(self.hot.execute(hot_tasks.REPORT_PROGRESS, parameters).fetchall()) == bool(self.holds(held))

    @rule(
        held=claims,
        wanted=st.sampled_from(["succeeded", "failed", "retrying", "queued", "cancelled"]),
        twice=st.booleans(),
    )
    def finish(self, held: Held, wanted: str, twice: bool) -> None:
        model = self.holds(held)
        if wanted == "retrying" and model is not None and model.attempt >= model.max_attempts:
            wanted = "failed"
        ending: dict[str, Any] = {"id": str(held.task_id), "claim": held.claim, "status": wanted, "delay": 3600}
        if wanted == "succeeded":
            ending |= {"result": {}, "artifacts": [self.artifact()]}
        elif wanted != "queued":
            ending["error"] = ERROR
        for _ in range(1 + twice):
            model = self.holds(held)
            document = {"document": json.dumps([ending])}
            written = self.hot.execute(hot_tasks.FINISH_WITH_ARTIFACTS, document).fetchall()
            if model is not None:
                model.end(wanted)
            assert written == ([(held.task_id, model.status)] if model else [])

    @staticmethod
    def artifact() -> dict[str, Any]:
        return {
            "file_id": str(new_id()),
            "name": "n",
            "media_type": "text/plain",
            "size": 1,
            "sha256": "00" * 32,
            "storage_key": secrets.token_hex(8),
            "position": 0,
        }

    @rule(
        held=claims,
        statement=st.sampled_from(["status = 'succeeded'", "lease_until = now()", "claim = NULL", "priority = 1"]),
    )
    def write_without_naming_the_claim(self, held: Held, statement: str) -> None:
        """A bug in our own code, or a person at a console: the fence refuses whatever it writes to what runs."""
        model = self.models.get(held.task_id)
        if model is None or model.status != "running":
            return
        with pytest.raises(psycopg.errors.Error, match=r"claim was not named|violates check"):
            self.hot.execute(f"UPDATE tasks SET {statement} WHERE id = %s", (held.task_id,))

    @rule(task_id=tasks)
    def cancel(self, task_id: UUID) -> None:
        changed = self.hot.execute(queries.CANCEL, {"ids": [task_id]}).fetchall()
        model = self.models.get(task_id)
        possible = model is not None and model.status not in DONE and not model.cancel_requested
        assert bool(changed) == possible
        if model is not None and possible:
            model.cancel_requested = True
            if model.status != "running":
                model.status = "cancelled"

    @rule(task_id=tasks)
    def lose_and_sweep(self, task_id: UUID) -> None:
        """The lease is over: the claim is named, as a renewal does."""
        self.hot.execute(
            f"UPDATE tasks task SET lease_until = now() - interval '1 s', named_claim = {hot_tasks.NAME_THE_CLAIM}"
            " WHERE id = %s AND status = 'running'",
            (task_id,),
        )
        rows = self.hot.execute(relay_queries.SWEEP, {"limit": 10}).fetchall()
        swept = [(task.id, task.status) for task in map(SweptTask._make, rows)]
        model = self.models.get(task_id)
        if model is None or model.status != "running":
            assert swept == []
            return
        model.end("retrying" if model.attempt < model.max_attempts else "failed")
        if model.cancel_requested:
            model.status = "cancelled"
        assert swept == [(task_id, model.status)]

    @rule(task_id=tasks)
    def promote(self, task_id: UUID) -> None:
        self.hot.execute(
            "UPDATE tasks SET next_attempt_at = CASE WHEN status = 'retrying' THEN now() END, run_at = now() WHERE id = %s"
            " AND status IN ('scheduled', 'retrying')",
            (task_id,),
        )
        self.hot.execute(relay_queries.PROMOTE, {"limit": 10})
        model = self.models.get(task_id)
        if model is not None and model.status in {"scheduled", "retrying"}:
            model.status = "queued"

    @rule(task_id=tasks)
    def expire(self, task_id: UUID) -> None:
        self.hot.execute(
            "UPDATE tasks SET expires_at = now() WHERE id = %s AND status IN ('scheduled', 'queued', 'retrying')",
            (task_id,),
        )
        expired = self.hot.execute(relay_queries.EXPIRE, {"limit": 10}).fetchall()
        model = self.models.get(task_id)
        possible = model is not None and model.status in {"scheduled", "queued", "retrying"}
        assert expired == ([(task_id,)] if possible else [])
        if model is not None and possible:
            model.status = "expired"

    @rule(task_id=tasks)
    def retry(self, task_id: UUID) -> None:
        retried = self.hot.execute(queries.RETRY, {"ids": [task_id], "kind_attempts": [2]}).fetchall()
        model = self.models.get(task_id)
        possible = model is not None and model.status in DONE - {"succeeded"}
        assert bool(retried) == possible
        if model is not None and possible:
            model.status, model.cancel_requested = "queued", False
            model.max_attempts += 2

    @rule(task_id=tasks)
    def publish_and_unmark(self, task_id: UUID) -> None:
        self.hot.execute("UPDATE tasks SET rung_at = now() WHERE id = %s AND status = 'queued'", (task_id,))
        self.hot.execute(publishing.UNMARK, {"ids": [task_id]})

    @rule(task_id=consumes(tasks))
    def purge(self, task_id: UUID) -> None:
        model = self.models.get(task_id)
        if model is None or model.status not in DONE:
            with pytest.raises(psycopg.errors.Error, match="only a finished task"):
                self.hot.execute("DELETE FROM tasks WHERE id = %s", (task_id,))
                raise psycopg.errors.Error("only a finished task is there")
            return
        with self.engine.begin() as connection:
            for statement in erase_tasks([task_id]):
                connection.execute(statement)
        del self.models[task_id]
        self.gone.add(task_id)

    @invariant()
    def the_rows_are_as_the_model_says(self) -> None:
        rows = self.hot.execute(
            "SELECT id, status, attempt, max_attempts, claim, cancel_requested_at IS NOT NULL FROM tasks"
        ).fetchall()
        found = {row[0]: Model(*row[1:3], *row[3:]) for row in rows}
        assert found == self.models

    def teardown(self) -> None:
        """The history keeps what was wrong in between."""
        with self.engine.connect() as connection:
            assert list(find_broken_rows(connection, None, 3600)) == []


@pytest.fixture
def life(settings: Settings) -> Iterator[type[Life]]:
    engine = make_engine(settings, "life")
    with connect_hot(settings, "life") as hot:

        class BoundLife(Life):
            pass

        BoundLife.hot, BoundLife.engine = hot, engine
        yield BoundLife
    engine.dispose()


def test_no_interleaving_breaks_a_guarantee(life: type[Life]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        life,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
