"""The maintenance kinds, run as tasks, and what they find: done tasks with artifacts, uploads, old objects."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.contracts.platform.ping import PingParams, PingResult
from shared.storage.object_store import new_object_key
from tests.workers.conftest import Bench, Tasks
from workers.handler_context import HandlerContext
from workers.handlers.maintenance import delete_orphans, drop_expired_sign_ins, drop_old_rows, purge, seal_audit

HANDLERS = {
    "maintenance.purge": purge.handle,
    "maintenance.delete_orphans": delete_orphans.handle,
    "maintenance.drop_expired_sign_ins": drop_expired_sign_ins.handle,
    "maintenance.drop_old_rows": drop_old_rows.handle,
    "maintenance.seal_audit": seal_audit.handle,
}


class Chores:
    """Runs the maintenance kinds, and makes what they delete."""

    def __init__(self, tasks: Tasks, bench: Bench) -> None:
        self._tasks = tasks
        self._bench = bench

    def load(self) -> None:
        """Register the handlers of the chores."""
        self._bench.handlers.update(HANDLERS)

    def do(self, kind: str) -> dict[str, Any]:
        """Run a chore as a task and return its result."""
        self.load()
        task_id = self._tasks.submit_one(kind, keep_for=86_400)
        self._bench.do(task_id)
        row = self._tasks.get(task_id)
        assert row.status == "succeeded", row.error
        return dict(row.result)

    def make_done(self, *, keep_for: int) -> tuple[UUID, UUID]:
        """Make a done task with one artifact and return the ids of both."""

        def handle(params: PingParams, context: HandlerContext) -> PingResult:
            context.scratch.mkdir(parents=True, exist_ok=True)
            (context.scratch / "a.txt").write_text("made")
            context.add_artifact(context.scratch / "a.txt", "a.txt", "text/plain")
            return PingResult(echo=None)

        self._bench.handlers["platform.ping"] = handle
        task_id = self._tasks.submit_one(keep_for=keep_for)
        self._bench.do(task_id)
        row = self._tasks.connection.execute("SELECT id FROM files WHERE task_id = %s", (task_id,)).fetchone()
        return task_id, row.id

    def upload(self, folder: Path, expires: str) -> tuple[UUID, str]:
        """Store an upload that expires in this interval; return its id and its key."""
        path, key, file_id = folder / uuid4().hex, new_object_key(), uuid4()
        path.write_bytes(b"uploaded")
        self._bench.store.put_file(key, path)
        self._tasks.connection.execute(
            "INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, storage_key, expires_at)"
            " VALUES (%s, %s, %s, 'a', 'text/plain', 8, sha256('a'), 'upload', %s, now() + %s::interval)",
            (file_id, file_id, file_id, key, expires),
        )
        return file_id, key

    def objects(self) -> set[str]:
        """Return the key of every object."""
        return {stored.key for stored in self._bench.store.list_objects(datetime.now(UTC) + timedelta(days=1))}

    def age(self, key: str, hours: float) -> None:
        """Set back the modification time of an object by so many hours."""
        then = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
        os.utime(self._bench.store.local_path(key), (then, then))

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        return int(self._tasks.connection.execute(f"SELECT count(*) AS n FROM {table}").fetchone().n)


@pytest.fixture
def chores(tasks: Tasks, bench: Bench) -> Chores:
    """The maintenance kinds, on the servers of the test."""
    return Chores(tasks, bench)
