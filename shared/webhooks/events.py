"""The types of events for which webhooks are sent. A capability with an event of its own adds its type here."""

from __future__ import annotations

from typing import Final

EVENT_TYPES: Final = (
    "task.succeeded",
    "task.failed",
    "task.cancelled",
    "task.expired",
    "batch.finished",
    "schedule.failed",
    "workflow.finished",
    "quota.warning",
)
"""Every type that an endpoint can subscribe to."""

PING: Final = "ping"
"""The type of the message that tests an endpoint. Nobody subscribes to it."""
