"""Logs one line for each attempt, once its finish is written. The event says what status the task has then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog

from shared.contracts.catalog import find_kind
from workers.engine.attempt import Attempt

log = structlog.get_logger()

LOG_EVENTS: Final = {
    "succeeded": "task_succeeded",
    "failed": "task_failed",
    "cancelled": "task_cancelled",
    "retrying": "task_retrying",
    "queued": "task_requeued",
}
"""The event of a log line, by the status of the task after the attempt."""


def log_attempt(attempt: Attempt, status: str, document: Mapping[str, Any]) -> None:
    """Log an attempt that was finished with `document`; `status` is what the task has become by it.

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
        LOG_EVENTS[status],
        task_id=attempt.task_id,
        kind=task.kind,
        attempt=task.attempt,
        duration_ms=round(attempt.ran_seconds * 1000, 1),
        request_id=task.request_id,
        **fields,
    )
