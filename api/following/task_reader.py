"""Reads tasks by id, for callers and on behalf of waiting requests: many of them in one round trip.

The statements leave out tasks that the caller may not see, so that the answer for another organization's task takes as long
as that for a task that never existed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.caller import Caller
from api.batcher import Batcher, HotConnection
from api.following.task_representation import TaskOrigin, TaskRow
from api.http.problems import Problem
from shared.permissions import Permission
from shared.queries import hot_tasks
from shared.queries.tasks import find_tombstone, list_origins
from shared.settings import Settings
from shared.tasks.states import DONE_VALUES


class TaskKey(NamedTuple):
    """Which task is read, and for which organization. `organization_id` is None for operators and admins."""

    task_id: UUID
    organization_id: UUID | None


class TaskVersion(NamedTuple):
    """The columns of `hot_tasks.READ_VERSIONS`, in its order: what is needed to answer 304."""

    id: UUID
    version: int
    status: str
    organization_id: UUID
    queue: str
    kind: str
    turn: float | None
    created_at: datetime
    run_at: datetime | None
    next_attempt_at: datetime | None

    @property
    def done(self) -> bool:
        """Whether the status is terminal."""
        return self.status in DONE_VALUES

    @property
    def etag(self) -> str:
        """The strong entity tag of the task's representation."""
        return f'"{self.version}"'


class TaskReader:
    """Reads tasks, many in one round trip."""

    def __init__(self, settings: Settings, reads: AsyncEngine) -> None:
        self._reads = reads
        self._rows: Batcher[TaskKey, TaskRow | None] = Batcher(settings, "read", self._read_rows)
        self._versions: Batcher[TaskKey, TaskVersion | None] = Batcher(settings, "versions", self._read_versions)
        self._changes: Batcher[Mapping[UUID, int], list[UUID]] = Batcher(settings, "changes", self._read_changes)

    async def find(self, task_id: UUID, caller: Caller) -> TaskRow | None:
        """Return a task, or None unless it exists and the caller may see it."""
        row = await self._rows.submit(TaskKey(task_id, caller.visible_organization_id))
        return None if row is None else (await self._fit_to([row], caller))[0]

    async def get(self, task_id: UUID, caller: Caller) -> TaskRow:
        """Return a task. Raises `not-found` or `gone` unless it exists and the caller may see it."""
        row = await self.find(task_id, caller)
        if row is None:
            raise await self.gone_or_missing(task_id, caller)
        return row

    async def find_many(self, task_ids: Sequence[UUID], caller: Caller) -> list[TaskRow]:
        """Return those of the tasks that exist and that the caller may see, in the order of `task_ids`."""
        keys = (TaskKey(task_id, caller.visible_organization_id) for task_id in task_ids)
        found = await asyncio.gather(*map(self._rows.submit, keys))
        rows = [row for row in found if row is not None]
        return await self._fit_to(rows, caller)

    async def _fit_to(self, rows: list[TaskRow], caller: Caller) -> list[TaskRow]:
        """Return rows with what the caller may see of them."""
        if not caller.has(Permission.TASKS_READ_CONTENT):
            return [row.without_content() for row in rows]
        return await self._add_origins(rows) if caller.has(Permission.TASKS_READ_ORIGIN) else rows

    async def _add_origins(self, rows: Sequence[TaskRow]) -> list[TaskRow]:
        async with self._reads.connect() as connection:
            found = await connection.execute(list_origins([row.id for row in rows]))
            origins = {one.id: TaskOrigin(one.owner_id, one.owner_name, one.api_key_name, one.worker) for one in found}
        return [row._replace(origin=origins.get(row.id)) for row in rows]

    async def find_version(self, task_id: UUID, caller: Caller) -> TaskVersion | None:
        """Return a task's version, or None unless it exists and the caller may see it."""
        return await self._versions.submit(TaskKey(task_id, caller.visible_organization_id))

    async def require(self, task_id: UUID, caller: Caller) -> None:
        """Raise `not-found` or `gone` unless the task exists and the caller may see it."""
        if await self.find_version(task_id, caller) is None:
            raise await self.gone_or_missing(task_id, caller)

    async def find_changed(self, seen: Mapping[UUID, int]) -> list[UUID]:
        """Return the ids of those tasks whose version differs from the one given, or which no longer exist."""
        return await self._changes.submit(dict(seen))

    async def gone_or_missing(self, task_id: UUID, caller: Caller) -> Problem:
        """Return the problem for a task that `find` did not return: `gone` if it was purged, else `not-found`."""
        async with self._reads.connect() as connection:
            statement = find_tombstone(task_id, caller.visible_organization_id)
            was_there = (await connection.execute(statement)).first() is not None
        return Problem("gone" if was_there else "not-found")

    async def close(self) -> None:
        """Finish the submitted reads, then close the connections."""
        await self._rows.close()
        await self._versions.close()
        await self._changes.close()

    async def _read_rows(self, connection: HotConnection, keys: Sequence[TaskKey]) -> Sequence[TaskRow | None]:
        cursor = await connection.execute(hot_tasks.READ, _parameters(keys), binary=True)
        rows = {row.id: row for row in (TaskRow(*columns) for columns in await cursor.fetchall())}
        return [_visible(rows.get(key.task_id), key) for key in keys]

    async def _read_versions(self, connection: HotConnection, keys: Sequence[TaskKey]) -> Sequence[TaskVersion | None]:
        cursor = await connection.execute(hot_tasks.READ_VERSIONS, _parameters(keys), binary=True)
        rows = {row.id: row for row in map(TaskVersion._make, await cursor.fetchall())}
        return [_visible(rows.get(key.task_id), key) for key in keys]

    async def _read_changes(
        self, connection: HotConnection, seen: Sequence[Mapping[UUID, int]]
    ) -> Sequence[list[UUID]]:
        answers = []
        for versions in seen:
            parameters = {"ids": _array(list(versions)), "versions": list(versions.values())}
            cursor = await connection.execute(hot_tasks.READ_CHANGES, parameters, binary=True)
            answers.append([task_id for (task_id,) in await cursor.fetchall()])
        return answers


_Found = TypeVar("_Found", TaskRow, TaskVersion)


def _visible(row: _Found | None, key: TaskKey) -> _Found | None:
    """Return the row if the organization of the key may see it. It may have been read for another key of the same batch."""
    if row is None or key.organization_id is None or row.organization_id == key.organization_id:
        return row
    return None


def _parameters(keys: Sequence[TaskKey]) -> dict[str, str]:
    distinct = dict.fromkeys(keys)
    organizations = ("NULL" if key.organization_id is None else str(key.organization_id) for key in distinct)
    return {"ids": _array([key.task_id for key in distinct]), "organizations": "{" + ",".join(organizations) + "}"}


def _array(ids: Sequence[UUID]) -> str:
    return "{" + ",".join(map(str, ids)) + "}"
