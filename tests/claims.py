"""Claims tasks by id, for tests that must know which task they claim; workers claim whichever is next."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg

from shared.contracts.catalog import list_kinds
from shared.queries import hot_tasks
from workers.engine.attempt import ClaimedTask

PUBLISH_FIRST = """
UPDATE tasks SET rung_at = now(), turn = -1e9
WHERE id = ANY(%s::uuid[]) AND status = 'queued' AND (expires_at IS NULL OR expires_at > now()) RETURNING queue"""


def claim_tasks(
    connection: psycopg.Connection[Any],
    ids: Sequence[UUID | str],
    *,
    lease_seconds: float = 60,
    claims: Sequence[int] | None = None,
) -> list[ClaimedTask]:
    """Publish these tasks before all others and claim them; return those that could be claimed, ordered by id."""
    rows = connection.execute(PUBLISH_FIRST, ([str(task_id) for task_id in ids],)).fetchall()
    counts = Counter(queue for (queue,) in rows)
    parameters = {
        "queues": list(counts),
        "counts": list(counts.values()),
        "kinds": list(list_kinds()),
        "claims": list(claims or [secrets.randbits(62) for _ in ids]),
        "lease": lease_seconds,
        "worker": "a test",
    }
    claimed = connection.execute(hot_tasks.CLAIM, parameters).fetchall()
    return sorted((ClaimedTask._make(row) for row in claimed), key=lambda task: task.id)
