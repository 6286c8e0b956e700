"""Does with webhooks what the API, the relay and workers do, step by step, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psycopg

from shared.contracts.catalog import list_kinds
from shared.contracts.webhooks.deliver import DeliverParams
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.queries import hot_tasks, relay
from shared.queries.webhooks import insert_endpoint
from shared.settings import Settings
from shared.stored_secrets import SecretCipher
from shared.tasks.follow_ups import make_follow_up
from shared.tasks.options import TaskOptions
from shared.tasks.submission import NewTask, make_task, submission_document
from shared.webhooks.signing import SECRET_PURPOSE, new_secret
from tests.claims import claim_tasks
from workers.adapters.address_guard import AddressGuard
from workers.adapters.http_client import HttpClient, TimeLimits
from workers.adapters.memory_context import MemoryContext
from workers.engine.attempt import ClaimedTask
from workers.handlers.webhooks.deliver import deliver
from workers.outcomes import Failed

LIMITS = TimeLimits(headers=1.5)
"""So short that a test can wait for a receiver that hangs, and long enough for one that answers on a busy machine."""
ERROR = {"type": "/problems/input-gone", "title": "Input gone", "detail": "It is gone.", "retryable": False, "data": {}}


@dataclass
class Webhooks:
    """Does what the API, the relay and workers do with webhooks, on the database of one test."""

    settings: Settings
    connection: psycopg.Connection[Any]
    folder: Path
    organization_id: UUID

    def __post_init__(self) -> None:
        self.engine = make_engine(self.settings, "test", pool_size=8)
        self.client = HttpClient(AddressGuard([ip_network("127.0.0.0/8")]), LIMITS)

    def add_endpoint(self, url: str, event_types: list[str] | None = None, **values: object) -> tuple[UUID, str]:
        """Store an endpoint; return its id and its secret."""
        secret, endpoint_id = new_secret(), new_id()
        stored = {
            "id": endpoint_id,
            "organization_id": self.organization_id,
            "owner_id": self.organization_id,
            "url": url,
            "event_types": event_types or ["task.succeeded", "task.failed"],
            "secret": SecretCipher(self.settings).encrypt(secret, SECRET_PURPOSE),
            **values,
        }
        with self.engine.begin() as connection:
            connection.execute(insert_endpoint(stored))
        return endpoint_id, secret

    def submit(self, *, batch_id: UUID | None = None, **options: object) -> UUID:
        """Submit a task with these options; return its id."""
        kind, parsed = list_kinds()["platform.ping"], TaskOptions.model_validate(options)
        task: NewTask = make_task(
            "platform.ping", kind, b"{}", "files", parsed, self.organization_id, self.organization_id
        )
        task.batch_id = batch_id
        task.follow_up = make_follow_up(parsed, SecretCipher(self.settings), self.organization_id, self.organization_id)
        self.connection.execute(hot_tasks.SUBMIT_KEYED, {"document": submission_document([task])})
        return task.id

    def end(self, task_id: UUID, status: str = "succeeded") -> UUID:
        """Claim a task and finish it with a status; return its id."""
        claimed = claim_tasks(self.connection, [task_id])[0]
        values: dict[str, Any] = {"result": {"echo": "ü"}} if status == "succeeded" else {"error": ERROR}
        row = {"id": task_id, "claim": claimed.claim, "status": status, **values}
        self.connection.execute(hot_tasks.FINISH, {"document": orjson.dumps([row]).decode()})
        return task_id

    def end_new_task(self, status: str = "succeeded", *, batch_id: UUID | None = None, **options: object) -> UUID:
        """Submit a task and finish it with a status; return its id."""
        return self.end(self.submit(batch_id=batch_id, **options), status)

    def claim_due(self, endpoint_id: UUID | None = None) -> list[ClaimedTask]:
        """Claim every task that sends a delivery and is due, or those to one endpoint."""
        self.connection.execute(relay.PROMOTE, {"limit": 1000})
        ids = self.connection.execute(
            "SELECT id FROM tasks WHERE kind = 'webhooks.deliver' AND status = 'queued' "
            "AND (%(id)s::uuid IS NULL OR owner_id = %(id)s) ORDER BY id",
            {"id": endpoint_id},
        ).fetchall()
        return claim_tasks(self.connection, [row.id for row in ids]) if ids else []

    def run(self, task: ClaimedTask) -> str:
        """Run a claimed task and record its end, as a worker does; return the status of the task."""
        context = MemoryContext(
            self.folder / str(task.claim),
            task_id=task.id,
            attempt=task.attempt,
            settings=self.settings,
            engine=self.engine,
        )
        row: dict[str, Any] = {"id": task.id, "claim": task.claim}
        try:
            result = deliver(DeliverParams.model_validate_json(task.params), context, self.client)
            row |= {"status": "succeeded", "result": result.model_dump()}
        except Failed as failed:
            error = {**ERROR, "type": failed.type, "title": failed.title, "detail": failed.detail}
            row |= {
                "status": "retrying" if failed.retryable else "failed",
                "error": error,
                "delay": failed.after_seconds,
            }
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            connection.execute(hot_tasks.FINISH, {"document": orjson.dumps([row]).decode()})
        return str(row["status"])

    def run_due(self) -> list[str]:
        """Run every task that sends a delivery and is due; return their statuses."""
        return [self.run(task) for task in self.claim_due()]

    def skip_waits(self) -> None:
        """Make every delivery that waits for its next try due."""
        self.connection.execute("UPDATE tasks SET next_attempt_at = now() WHERE status = 'retrying'")

    def deliveries(self) -> list[Any]:
        """Return the rows of all deliveries, oldest first."""
        return self.connection.execute("SELECT * FROM webhook_deliveries ORDER BY id").fetchall()

    def slow_receivers(self) -> list[Any]:
        """Return the rows of slow receivers."""
        return self.connection.execute("SELECT * FROM slow_receivers").fetchall()

    def tries(self) -> list[Any]:
        """Return the rows of all tries, oldest first."""
        return self.connection.execute("SELECT * FROM webhook_tries ORDER BY delivery_id, number").fetchall()

    def endpoint(self, endpoint_id: UUID) -> Any:
        """Return the row of an endpoint."""
        row = self.connection.execute("SELECT * FROM webhook_endpoints WHERE id = %s", [endpoint_id]).fetchone()
        assert row is not None
        return row

    def task(self, task_id: UUID) -> Mapping[str, Any]:
        """Return the row of a task."""
        row = self.connection.execute("SELECT * FROM tasks WHERE id = %s", [task_id]).fetchone()
        assert row is not None
        found: Mapping[str, Any] = row._asdict()
        return found
