"""Statements on stored files and on the tombstones of deleted ones.

To delete a file, delete its row, commit, and then delete its object: so no row ever names an object that is missing, and an
object that a crash leaves behind is found as an orphan. A file that a live task reads must not be deleted: lock the row
first, then check for readers, then delete. A submission takes a shared lock on the rows of its input files, so that it
waits for such a deletion.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, Select, cast, delete, exists, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import INTERVAL, JSONB
from sqlalchemy.dialects.postgresql import insert as postgresql_insert

from shared.tables.files import files
from shared.tables.tasks import task_events, task_files, tasks, tombstones
from shared.tasks.states import DONE

TOMBSTONE_DAYS: Final = 30
"""How many days the tombstone of a file or task is kept."""

INSERT_UPLOAD: Final = """
INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, storage_key, expires_at)
VALUES (%(id)s, %(organization_id)s, %(owner_id)s, %(name)s, %(media_type)s, %(size)s, %(sha256)s, 'upload',
    %(storage_key)s, now() + %(keep_seconds)s * interval '1 second')"""
"""Insert an upload. Plain SQL, because it runs on the psycopg connection that also stores the task of the upload."""


def find_file(file_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find a file, every column of `files`: of one organization, or of any if None."""
    statement = select(files).where(files.c.id == file_id)
    return statement if organization_id is None else statement.where(files.c.organization_id == organization_id)


def find_files(file_ids: Collection[UUID]) -> Select[Any]:
    """Find files by id, of any organization, in no order: every column of `files`."""
    return select(files).where(files.c.id.in_(file_ids))


def lock_input_files(file_ids: Collection[UUID]) -> Select[Any]:
    """Find files by id, and lock their rows against deletion until the transaction ends."""
    return find_files(file_ids).with_for_update(read=True, key_share=True)


def list_files(organization_id: UUID | None, before: UUID | None, limit: int) -> Select[Any]:
    """List files, newest first: of one organization, or of all if None; those older than the file `before`."""
    statement = select(files).order_by(files.c.id.desc()).limit(limit)
    if organization_id is not None:
        statement = statement.where(files.c.organization_id == organization_id)
    return statement if before is None else statement.where(files.c.id < before)


def lock_file(file_id: UUID) -> Select[Any]:
    """Find a file, and lock its row until the transaction ends, so that no task can begin to read the file."""
    return find_file(file_id, None).with_for_update()


def is_read_by_live_task(file_id: UUID) -> Select[bool]:
    """Return whether a task that is not done has the file among its inputs."""
    return select(_has_live_reader(literal(file_id)))


def delete_files(file_ids: Collection[UUID]) -> Executable:
    """Delete files and leave a tombstone for each; return `id`, `storage_key` and `task_id` of each deleted one."""
    gone = (
        delete(files)
        .where(files.c.id.in_(file_ids))
        .returning(files.c.id, files.c.organization_id, files.c.owner_id, files.c.storage_key, files.c.task_id)
        .cte("gone")
    )
    buried = (
        postgresql_insert(tombstones)
        .from_select(
            ["id", "subject", "organization_id", "owner_id"],
            select(gone.c.id, literal("file"), gone.c.organization_id, gone.c.owner_id),
        )
        .on_conflict_do_nothing()
        .returning(tombstones.c.id)
        .cte("buried")
    )
    return select(gone.c.id, gone.c.storage_key, gone.c.task_id).add_cte(buried)


def record_deleted_artifact(task_id: UUID, name: str) -> Executable:
    """Raise the version of the task that made a file, because its artifacts have changed, and insert an event with the reason."""
    raised = (
        update(tasks)
        .where(tasks.c.id == task_id, tasks.c.status.in_(DONE))
        .values(version=tasks.c.version + 1)
        .returning(tasks.c.id, tasks.c.version)
        .cte("raised")
    )
    message = cast({"message": f"The artifact {name} was deleted."}, JSONB)
    return insert(task_events).from_select(
        ["task_id", "seq", "type", "data"], select(raised.c.id, raised.c.version, literal("log"), message)
    )


def find_tombstone(file_id: UUID, organization_id: UUID | None) -> Select[bool]:
    """Return whether a file existed within the last `TOMBSTONE_DAYS` days: of one organization, or of any if None."""
    condition = (
        (tombstones.c.id == file_id)
        & (tombstones.c.subject == "file")
        & (tombstones.c.purged_at > func.now() - cast(f"{TOMBSTONE_DAYS} days", INTERVAL))
    )
    if organization_id is not None:
        condition &= tombstones.c.organization_id == organization_id
    return select(exists().where(condition))


def lock_expired_files(limit: int) -> Select[Any]:
    """Lock up to `limit` uploads that are past `expires_at` and that no live task reads; return `id` and `storage_key`.

    Artifacts are left out, because they are deleted with their tasks. Rows that another transaction has locked are skipped.
    Check with `list_unread` before the files are deleted: a task may have begun to read one while this statement ran.
    """
    return (
        select(files.c.id, files.c.storage_key)
        .where(files.c.expires_at <= func.now(), files.c.origin == "upload", ~_has_live_reader(files.c.id))
        .order_by(files.c.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def list_unread(file_ids: Collection[UUID]) -> Select[UUID]:
    """List those of the files that no live task reads."""
    return select(files.c.id).where(files.c.id.in_(file_ids), ~_has_live_reader(files.c.id))


def list_known_keys(storage_keys: Collection[str]) -> Select[str]:
    """List those of the storage keys that a file has. An old object under any other key is an orphan."""
    return select(files.c.storage_key).where(files.c.storage_key.in_(storage_keys))


def _has_live_reader(file_id: ColumnElement[UUID]) -> ColumnElement[bool]:
    return exists(
        select(literal(1))
        .select_from(task_files.join(tasks, tasks.c.id == task_files.c.task_id))
        .where(task_files.c.file_id == file_id, task_files.c.role == "input", tasks.c.finished_at.is_(None))
    )
