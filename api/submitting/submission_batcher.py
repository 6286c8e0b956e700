"""Stores the submissions that arrive at the same time in one commit. Each caller waits for the commit of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import psycopg

from api.batcher import Batcher, HotConnection
from api.http.quota_refusals import QuotaRefusal, find_refusal
from shared import kill_points
from shared.queries import hot_tasks
from shared.settings import Settings
from shared.tasks.submission import NewTask, needs_keyed_form, submission_document


class StoredTasks(NamedTuple):
    """The columns of `hot_tasks.SUBMIT` and `hot_tasks.SUBMIT_KEYED`, in their order."""

    created_at: datetime
    notified: object
    ids: list[UUID] | None
    """The tasks that were stored; None when there is none."""


class SubmissionBatcher:
    """Stores tasks whose transaction contains nothing but tasks."""

    def __init__(self, settings: Settings) -> None:
        self._batcher: Batcher[NewTask, datetime | None] = Batcher(settings, "submit", self._flush)

    async def store(self, task: NewTask) -> datetime | None:
        """Store one task. Returns its `created_at` once it is committed, or None when its idempotency key is taken.

        Raises `psycopg.errors.ForeignKeyViolation` when an input file does not exist any more.
        """
        return await self._batcher.submit(task)

    async def close(self) -> None:
        """Store the tasks that were submitted, then close the connection."""
        await self._batcher.close()

    async def _flush(
        self, connection: HotConnection, tasks: Sequence[NewTask]
    ) -> Sequence[datetime | Exception | None]:
        keyed = any(needs_keyed_form(task) for task in tasks)
        statement = hot_tasks.SUBMIT_KEYED if keyed else hot_tasks.SUBMIT
        kill_points.reach("api-before-commit")
        try:
            cursor = await connection.execute(statement, {"document": submission_document(tasks)})
            row = await cursor.fetchone()
        except (psycopg.errors.DataError, psycopg.errors.IntegrityError) as error:
            if len(tasks) == 1:
                return [error]
            if (refusal := find_refusal(error)) is not None:
                return await self._flush_within_quota(connection, tasks, refusal, error)
            # One bad row made the statement fail, which stored nothing. Each task is retried alone, so that only the bad one fails.
            return [(await self._flush(connection, [task]))[0] for task in tasks]
        assert row is not None
        stored = StoredTasks._make(row)
        kill_points.reach("api-after-commit")
        if not keyed:
            return [stored.created_at] * len(tasks)
        ids = set(stored.ids or ())
        return [stored.created_at if task.id in ids else None for task in tasks]

    async def _flush_within_quota(
        self, connection: HotConnection, tasks: Sequence[NewTask], refusal: QuotaRefusal, error: psycopg.Error
    ) -> Sequence[datetime | Exception | None]:
        """Store the tasks of others, and of those that exceed a quota together as many as still fit, the first ones first.

        Where each task counts for one, the rest are refused without another statement, so that a caller who goes on submitting
        beyond a quota delays the others by two statements only.
        """
        affected = [task for task in tasks if refusal.subject in {task.organization_id, task.owner_id}]
        others = [task for task in tasks if refusal.subject not in {task.organization_id, task.owner_id}]
        answers: dict[UUID, datetime | Exception | None] = {}
        if refusal.name in {"tasks_per_day", "live_tasks"}:
            room = max(0, refusal.amount - (refusal.used - len(affected)))
            answers |= dict.fromkeys((task.id for task in affected[room:]), error)
            groups = [others, affected[:room]]
        else:
            groups = [others, *([task] for task in affected)]
        for group in filter(None, groups):
            answers.update(zip((task.id for task in group), await self._flush(connection, group), strict=True))
        return [answers[task.id] for task in tasks]
