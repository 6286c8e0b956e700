"""The events that tell receivers of Celery events, such as Flower, how an attempt ended."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

_REQUEUED: Final = "requeued"
"""What Flower shows as the exception of an attempt that was requeued."""


class TaskEvent(NamedTuple):
    """An event of Celery."""

    type: str
    fields: dict[str, Any]


def find_end_event(status: str, error_type: str | None = None) -> TaskEvent | None:
    """Return the event of an attempt after which its task has this status; None for a success, whose event Celery sends.

    Of an error only the type is sent.
    """
    match status:
        case "failed":
            return TaskEvent("task-failed", {"exception": error_type, "traceback": None})
        case "retrying" | "queued":
            return TaskEvent("task-retried", {"exception": error_type or _REQUEUED, "traceback": None})
        case "cancelled":
            return TaskEvent("task-revoked", {"terminated": True, "signum": None, "expired": False})
    return None
