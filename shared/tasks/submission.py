"""Creates the rows of a submitted task. The API and beat both create tasks with `make_task`, and nothing else does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from shared.contracts.kind import QUEUES, AnyKind
from shared.identifiers import new_id
from shared.tasks.options import TaskOptions
from shared.tasks.states import TaskStatus

PLATFORM_ID: Final = UUID("00000000-0000-7000-8000-000000000000")
"""The organization and caller that the platform's own tasks belong to."""


@dataclass(slots=True)
class NewTask:
    """One task, ready to be stored. `params` is the JSON text of validated params, including defaults."""

    kind: str
    kind_version: int
    queue: str
    status: str
    organization_id: UUID
    owner_id: UUID
    max_attempts: int
    timeout_seconds: int
    keep_seconds: int
    params: bytes
    api_key_id: UUID | None = None
    priority: int = 5
    run_at: datetime | None = None
    delay: float | None = None
    ttl: int | None = None
    batch_id: UUID | None = None
    parent_id: UUID | None = None
    schedule_id: UUID | None = None
    traceparent: str | None = None
    request_id: str | None = None
    tags: Sequence[str] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    files: Sequence[UUID] = ()
    idempotency_key: str | None = None
    fingerprint: str | None = None
    unique_for: int | None = None
    backoff: dict[str, float] | None = None
    rerun_of: UUID | None = None
    key_limits: dict[str, Any] | None = None
    """The options `concurrency` and `rate`; None without either."""
    follow_up: dict[str, Any] | None = None
    """What it asks for when it ends: see `shared/tasks/follow_ups.py`."""
    params_digest: bytes | None = None
    """What `unique_for` compares in the place of the SHA-256 of the params, if they have secrets."""
    id: UUID = field(default_factory=new_id)


def make_task(
    kind_name: str,
    kind: AnyKind,
    params: bytes,
    queue: str,
    options: TaskOptions,
    organization_id: UUID,
    owner_id: UUID,
) -> NewTask:
    """Return a task of validated params (as JSON) and options. Raises `ValueError` for a queue that no worker could serve."""
    if queue not in QUEUES:
        raise ValueError(f"the kind {kind_name} names the unknown queue {queue}: choose one of {', '.join(QUEUES)}")
    is_scheduled = options.run_at is not None or bool(options.delay)
    return NewTask(
        kind=kind_name,
        kind_version=kind.version,
        queue=queue,
        status=TaskStatus.SCHEDULED if is_scheduled else TaskStatus.QUEUED,
        organization_id=organization_id,
        owner_id=owner_id,
        max_attempts=options.max_attempts or kind.max_attempts,
        timeout_seconds=options.timeout or kind.timeout_seconds,
        keep_seconds=options.keep_for,
        params=params,
        priority=options.priority,
        run_at=options.run_at,
        delay=options.delay or None,
        ttl=options.ttl,
        tags=options.tags,
        metadata=options.metadata,
        unique_for=options.unique_for,
        backoff=options.backoff.model_dump() if options.backoff is not None else None,
        key_limits=_key_limits(options),
    )


def _key_limits(options: TaskOptions) -> dict[str, Any] | None:
    limits = {"concurrency": options.concurrency, "rate": options.rate}
    return {name: limit.model_dump() for name, limit in limits.items() if limit is not None} or None


def needs_keyed_form(task: NewTask) -> bool:
    """Return whether only `hot_tasks.SUBMIT_KEYED` stores everything of a task."""
    return bool(task.idempotency_key is not None or task.files or task.follow_up or task.key_limits)


def submission_document(new_tasks: Sequence[NewTask]) -> str:
    """Return the JSON document that `hot_tasks.SUBMIT` inserts from.

    Empty fields are left out, because each costs time for each row.
    """
    return orjson.dumps([_row(task) for task in new_tasks]).decode()


def _row(task: NewTask) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": task.id,
        "kind": task.kind,
        "kind_version": task.kind_version,
        "queue": task.queue,
        "status": task.status,
        "organization_id": task.organization_id,
        "owner_id": task.owner_id,
        "priority": task.priority,
        "max_attempts": task.max_attempts,
        "timeout_seconds": task.timeout_seconds,
        "keep_seconds": task.keep_seconds,
        "params": orjson.Fragment(task.params),
    }
    for name in _OPTIONAL:
        value = getattr(task, name)
        if value is not None:
            row[name] = value
    if task.tags:
        row["tags"] = _array_literal(task.tags)
    if task.metadata:
        row["metadata"] = task.metadata
    if task.files:
        row["files"] = list(task.files)
    return row


_OPTIONAL: Final = (
    "api_key_id",
    "run_at",
    "delay",
    "ttl",
    "batch_id",
    "parent_id",
    "schedule_id",
    "traceparent",
    "request_id",
    "idempotency_key",
    "fingerprint",
    "backoff",
    "rerun_of",
    "follow_up",
    "key_limits",
)


def _array_literal(values: Sequence[str]) -> str:
    """Return strings as an array literal of Postgres (PostgreSQL manual, 8.15.6)."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


def params_sha256(params: bytes) -> bytes:
    """Return the SHA-256 of params as canonical JSON: keys sorted, no white space."""
    return hashlib.sha256(orjson.dumps(orjson.loads(params), option=orjson.OPT_SORT_KEYS)).digest()
