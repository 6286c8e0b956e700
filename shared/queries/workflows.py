"""Statements on workflows and their steps. Functions of the database move workflows on (`migrations/functions/`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, Select, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from shared.tables.tasks import tasks, tombstones
from shared.tables.workflows import workflow_steps, workflows

INSERT_WORKFLOW: Final = """
WITH given AS MATERIALIZED (SELECT %(document)s::jsonb AS workflow),
inserted AS (
    INSERT INTO workflows (id, organization_id, owner_id, name, schedule_id)
    SELECT (workflow->>'id')::uuid, (workflow->>'organization_id')::uuid, (workflow->>'owner_id')::uuid, workflow->>'name',
        (workflow->>'schedule_id')::uuid FROM given
),
step AS (
    INSERT INTO workflow_steps (workflow_id, name, place, position, after, on_failure, submission, refs, for_each, task_id,
        status, started_at)
    SELECT (given.workflow->>'id')::uuid, step.name, step.place, step.position, step.after, step.on_failure, step.submission,
        step.refs, step.for_each, step.task_id, step.status, CASE WHEN step.status = 'running' THEN now() END
    FROM given CROSS JOIN LATERAL jsonb_to_recordset(given.workflow->'steps') AS step (name text, place int2, position int2,
        after text[], on_failure text, submission jsonb, refs jsonb, for_each jsonb, task_id uuid, status text)
)
SELECT taskmill_insert_tasks(workflow->'tasks') AS task_ids FROM given"""
"""Insert a workflow with its steps and their tasks, from a document of `shared.workflows.submission.NewWorkflow`.

Plain SQL for psycopg. The tasks of steps without others before them are due.
"""

REQUEST_CANCEL: Final = """
UPDATE workflows SET cancel_requested_at = now()
WHERE id = %(workflow_id)s AND finished_at IS NULL AND cancel_requested_at IS NULL"""
"""Request that a workflow starts no further step."""

ADVANCE: Final = "SELECT taskmill_advance_workflow(%(workflow_id)s)"
"""Move a workflow on: end what cannot start any more, and finish it if nothing is left."""


def find_workflow(workflow_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find a workflow, every column of `workflows`: of one organization, or of any if None."""
    statement = select(workflows).where(workflows.c.id == workflow_id)
    return statement if organization_id is None else statement.where(workflows.c.organization_id == organization_id)


def lock_workflow(workflow_id: UUID) -> Select[Any]:
    """Find a workflow, and lock its row until the transaction ends."""
    return select(workflows).where(workflows.c.id == workflow_id).with_for_update()


def find_tombstone(workflow_id: UUID, organization_id: UUID | None) -> Select[UUID]:
    """Find the tombstone of a workflow that was erased and belonged to the organization, if one is given."""
    statement = select(tombstones.c.id).where(tombstones.c.id == workflow_id, tombstones.c.subject == "workflow")
    return statement if organization_id is None else statement.where(tombstones.c.organization_id == organization_id)


def list_workflows(
    organization_id: UUID | None, before: UUID | None, limit: int, status: Sequence[str] | None = None
) -> Select[Any]:
    """List workflows, newest first: of one organization, or of all if None; those older than the workflow `before`."""
    statement = select(workflows).order_by(workflows.c.id.desc()).limit(limit)
    if organization_id is not None:
        statement = statement.where(workflows.c.organization_id == organization_id)
    if status:
        statement = statement.where(workflows.c.status.in_(status))
    return statement if before is None else statement.where(workflows.c.id < before)


def list_steps(workflow_ids: Sequence[UUID]) -> Select[Any]:
    """List the steps of workflows, in the order of their submissions.

    Beside the columns of `workflow_steps`: `kind`; of the step's one task `task_status` (None once it was erased),
    `task_started_at` and `task_finished_at`; of all its tasks `last_finished_at` and `counts` by status.
    """
    of_step = tasks.alias("of_step")
    by_status = (
        select(of_step.c.status, func.count().label("tasks"))
        .where(of_step.c.workflow_id == workflow_steps.c.workflow_id, of_step.c.workflow_step == workflow_steps.c.name)
        .group_by(of_step.c.status)
        .correlate(workflow_steps)
        .subquery()
    )
    last = (
        select(func.max(of_step.c.finished_at))
        .where(of_step.c.workflow_id == workflow_steps.c.workflow_id, of_step.c.workflow_step == workflow_steps.c.name)
        .correlate(workflow_steps)
        .scalar_subquery()
    )
    counts = select(func.jsonb_object_agg(by_status.c.status, by_status.c.tasks)).scalar_subquery()
    return (
        select(
            workflow_steps,
            workflow_steps.c.submission["kind"].astext.label("kind"),
            tasks.c.status.label("task_status"),
            tasks.c.started_at.label("task_started_at"),
            tasks.c.finished_at.label("task_finished_at"),
            counts.label("counts"),
            last.label("last_finished_at"),
        )
        .outerjoin(tasks, tasks.c.id == workflow_steps.c.task_id)
        .where(workflow_steps.c.workflow_id.in_(workflow_ids))
        .order_by(workflow_steps.c.workflow_id, workflow_steps.c.position)
    )


def is_workflow_of(workflow_id: UUID, organization_id: UUID) -> ColumnElement[bool]:
    """Return the condition that a workflow belongs to an organization."""
    owner = select(workflows.c.organization_id).where(workflows.c.id == workflow_id).scalar_subquery()
    return owner == organization_id


def is_kept_by_workflow() -> ColumnElement[bool]:
    """Return the condition that a task belongs to a workflow that is not finished, whose later steps may read its result."""
    unfinished = select(workflows.c.id).where(workflows.c.id == tasks.c.workflow_id, workflows.c.finished_at.is_(None))
    return tasks.c.workflow_id.is_not(None) & unfinished.exists()


def list_kept(task_ids: Sequence[UUID]) -> Select[UUID]:
    """List those of the tasks that belong to a workflow that is not finished."""
    return select(tasks.c.id).where(tasks.c.id.in_(task_ids), is_kept_by_workflow())


def list_workflow_ids(task_ids: Sequence[UUID]) -> Select[Any]:
    """List the workflows that tasks belong to."""
    return select(tasks.c.workflow_id).distinct().where(tasks.c.id.in_(task_ids), tasks.c.workflow_id.is_not(None))


def count_steps(workflow_ids: Sequence[UUID]) -> Select[Any]:
    """Count the steps of workflows by status: (workflow_id, status, count)."""
    return (
        select(workflow_steps.c.workflow_id, workflow_steps.c.status, func.count().label("count"))
        .where(workflow_steps.c.workflow_id.in_(workflow_ids))
        .group_by(workflow_steps.c.workflow_id, workflow_steps.c.status)
    )


def has_started() -> ColumnElement[bool]:
    """Return the condition that a task is not done and does not wait for other steps."""
    waits = (tasks.c.status == "scheduled") & tasks.c.run_at.is_(None)
    return tasks.c.finished_at.is_(None) & ~waits


def lock_workflows_of(task_ids: Sequence[UUID], *, skip_locked: bool = False) -> Select[UUID]:
    """List the workflows that tasks belong to, and lock their rows in the order of ids until the transaction ends.

    With `skip_locked`, workflows that another transaction has locked are left out instead of waited for.
    """
    return (
        select(workflows.c.id)
        .where(workflows.c.id.in_(list_workflow_ids(task_ids)))
        .order_by(workflows.c.id)
        .with_for_update(key_share=True, skip_locked=skip_locked)
    )


def lock_started_tasks(workflow_id: UUID) -> Select[UUID]:
    """List the ids of a workflow's tasks that are not done and do not wait for other steps, and lock their rows.

    They are locked before the workflow, in the order in which a statement that ends them does.
    """
    return (
        select(tasks.c.id)
        .where(tasks.c.workflow_id == workflow_id, has_started())
        .order_by(tasks.c.id)
        .with_for_update()
    )


def list_task_ids(workflow_id: UUID) -> Select[UUID]:
    """List the ids of a workflow's tasks."""
    return select(tasks.c.id).where(tasks.c.workflow_id == workflow_id).order_by(tasks.c.id)


def list_unstarted_steps(task_ids: Sequence[UUID]) -> Select[UUID]:
    """List those of the tasks whose step has never been started, because it waited for others."""
    return (
        select(tasks.c.id)
        .join(
            workflow_steps,
            (workflow_steps.c.workflow_id == tasks.c.workflow_id) & (workflow_steps.c.task_id == tasks.c.id),
        )
        .where(tasks.c.id.in_(task_ids), workflow_steps.c.started_at.is_(None))
    )


def erase_workflows(workflow_ids: Sequence[UUID]) -> list[Executable]:
    """Delete finished workflows of which no task is left, and leave tombstones."""
    empty = (
        workflows.c.id.in_(workflow_ids),
        workflows.c.finished_at.is_not(None),
        ~select(tasks.c.id).where(tasks.c.workflow_id == workflows.c.id).exists(),
    )
    gone = select(workflows.c.id, literal("workflow"), workflows.c.organization_id, workflows.c.owner_id).where(*empty)
    return [
        insert(tombstones).from_select(["id", "subject", "organization_id", "owner_id"], gone).on_conflict_do_nothing(),
        delete(workflows).where(*empty),
    ]
