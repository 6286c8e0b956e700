"""Logs the end of each attempt, once it is recorded: one line, whose event says what the task is then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog

from shared.contracts.catalog import find_kind
from workers.engine.attempt import Attempt

log = structlog.get_logger()

EVENTS: Final = {
    "succeeded": "task_succeeded",
    "failed": "task_failed",
    "cancelled": "task_cancelled",
    "retrying": "task_retrying",
    "queued": "task_requeued",
}
"""The event of a log line, by the status of the task after the attempt."""


def log_end(attempt: Attempt, status: str, document: Mapping[str, Any]) -> None:
    """Log the end of an attempt. `status` is what was recorded, and `document` what was asked to be recorded.

    A success of the platform's own tasks, such as canaries, is logged at the level `debug`.
    """
    task = attempt.task
    kind = find_kind(task.kind)
    is_routine = status == "succeeded" and kind is not None and not kind.public
    fields: dict[str, Any] = {}
    if status == document["status"]:
        if "error" in document:
            fields["error"] = document["error"]["type"]
        if "delay" in document:
            fields["next_in_seconds"] = round(document["delay"], 1)
    (log.debug if is_routine else log.info)(
        EVENTS[status],
        task_id=str(task.id),
        kind=task.kind,
        attempt=task.attempt,
        duration_ms=round(attempt.ran_seconds * 1000, 1),
        request_id=task.request_id,
        **fields,
    )
