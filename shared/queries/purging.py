"""Statements that erase done tasks whose keep is over, and rows that are too old to matter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select, delete, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from shared.queries.submissions import IDEMPOTENCY_KEY_HOURS
from shared.queries.webhooks import erase_data_of_tasks
from shared.queries.workflows import is_kept_by_workflow
from shared.tables.batches import batch_follow_ups
from shared.tables.bulk_actions import bulk_actions
from shared.tables.emails import email_intents, email_receipts
from shared.tables.files import files
from shared.tables.queues import queue_activity
from shared.tables.tasks import (
    idempotency_keys,
    task_events,
    task_files,
    task_payloads,
    tasks,
    tombstones,
    unique_tasks,
)
from shared.tables.turns import caller_turns, rate_starts
from shared.tables.webhooks import task_follow_ups


def list_purgeable(limit: int) -> Select[Any]:
    """List done tasks that are due to be purged, and lock them, passing over locked ones.

    A task whose artifacts a live task reads is left out, and so is one whose workflow is not finished.
    """
    readers = tasks.alias()
    has_reader = (
        select(files.c.id)
        .join(task_files, (task_files.c.file_id == files.c.id) & (task_files.c.role == "input"))
        .join(readers, readers.c.id == task_files.c.task_id)
        .where(files.c.task_id == tasks.c.id, readers.c.finished_at.is_(None))
        .exists()
    )
    return (
        select(tasks.c.id)
        .where(tasks.c.purge_at <= func.now(), ~has_reader, ~is_kept_by_workflow())
        .order_by(tasks.c.purge_at)
        .limit(limit)
        .with_for_update(of=tasks, skip_locked=True)
    )


def lock_artifacts(task_ids: Sequence[UUID]) -> Select[Any]:
    """List the artifacts of tasks, (id, task_id, storage_key), and lock them, so that no task can begin to read one."""
    return (
        select(files.c.id, files.c.task_id, files.c.storage_key).where(files.c.task_id.in_(task_ids)).with_for_update()
    )


def list_tasks_with_artifacts_in_use(task_ids: Sequence[UUID]) -> Select[UUID]:
    """List those of the tasks whose artifacts a live task reads."""
    readers = tasks.alias()
    return (
        select(files.c.task_id)
        .distinct()
        .join(task_files, (task_files.c.file_id == files.c.id) & (task_files.c.role == "input"))
        .join(readers, readers.c.id == task_files.c.task_id)
        .where(files.c.task_id.in_(task_ids), readers.c.finished_at.is_(None))
    )


def erase_tasks(task_ids: Sequence[UUID]) -> list[Executable]:
    """Erase done tasks: their artifacts' rows, payloads, history, uniqueness, receipts; and leave tombstones.

    In this order, in one transaction; the artifacts' objects are deleted after its commit.
    """
    ids = list(task_ids)
    buried = ["id", "subject", "organization_id", "owner_id"]
    gone_tasks = select(tasks.c.id, literal("task"), tasks.c.organization_id, tasks.c.owner_id).where(
        tasks.c.id.in_(ids)
    )
    gone_files = select(files.c.id, literal("file"), files.c.organization_id, files.c.owner_id).where(
        files.c.task_id.in_(ids)
    )
    return [
        insert(tombstones).from_select(buried, gone_tasks).on_conflict_do_nothing(),
        insert(tombstones).from_select(buried, gone_files).on_conflict_do_nothing(),
        erase_data_of_tasks(ids),
        delete(task_follow_ups).where(task_follow_ups.c.task_id.in_(ids)),
        delete(unique_tasks).where(unique_tasks.c.task_id.in_(ids)),
        delete(bulk_actions).where(bulk_actions.c.task_id.in_(ids)),
        delete(email_receipts).where(email_receipts.c.task_id.in_(ids)),
        delete(email_intents).where(email_intents.c.task_id.in_(ids)),
        delete(task_events).where(task_events.c.task_id.in_(ids)),
        delete(task_files).where(task_files.c.task_id.in_(ids)),
        delete(files).where(files.c.task_id.in_(ids)),
        delete(task_payloads).where(task_payloads.c.task_id.in_(ids)),
        delete(tasks).where(tasks.c.id.in_(ids)),
    ]


def drop_old_idempotency_keys(limit: int) -> Executable:
    """Delete idempotency keys older than `IDEMPOTENCY_KEY_HOURS`."""
    old = (
        select(idempotency_keys.c.owner_id, idempotency_keys.c.key)
        .where(idempotency_keys.c.created_at < func.now() - timedelta(hours=IDEMPOTENCY_KEY_HOURS))
        .limit(limit)
    )
    return delete(idempotency_keys).where(tuple_(idempotency_keys.c.owner_id, idempotency_keys.c.key).in_(old))


def drop_old_batch_follow_ups(limit: int) -> Executable:
    """Delete what batches submit when their last task has ended, of batches without tasks: all of them were erased."""
    left = select(tasks.c.id).where(tasks.c.batch_id == batch_follow_ups.c.batch_id).exists()
    old = select(batch_follow_ups.c.batch_id).where(~left).limit(limit)
    return delete(batch_follow_ups).where(batch_follow_ups.c.batch_id.in_(old))


def drop_old_turns(limit: int, days: int) -> Executable:
    """Delete the last turns of callers for whom no task of a queue was published in the last `days` days."""
    old = (
        select(caller_turns.c.queue, caller_turns.c.owner_id)
        .where(caller_turns.c.at < func.now() - timedelta(days=days))
        .limit(limit)
    )
    return delete(caller_turns).where(tuple_(caller_turns.c.queue, caller_turns.c.owner_id).in_(old))


def drop_old_starts(limit: int, seconds: int) -> Executable:
    """Delete the starts of attempts that are older than `seconds`, the longest period of a rate."""
    old = (
        select(rate_starts.c.task_id, rate_starts.c.attempt_claim)
        .where(rate_starts.c.at < func.now() - timedelta(seconds=seconds))
        .limit(limit)
    )
    return delete(rate_starts).where(tuple_(rate_starts.c.task_id, rate_starts.c.attempt_claim).in_(old))


def drop_old_activity(limit: int, hours: int) -> Executable:
    """Delete counts of the activity of queues older than `hours` hours."""
    old = (
        select(queue_activity.c.queue, queue_activity.c.at)
        .where(queue_activity.c.at < func.now() - timedelta(hours=hours))
        .limit(limit)
    )
    return delete(queue_activity).where(tuple_(queue_activity.c.queue, queue_activity.c.at).in_(old))


def drop_old_tombstones(limit: int, days: int) -> Executable:
    """Delete tombstones older than `days` days."""
    old = select(tombstones.c.id).where(tombstones.c.purged_at < func.now() - timedelta(days=days)).limit(limit)
    return delete(tombstones).where(tombstones.c.id.in_(old))
