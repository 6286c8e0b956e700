"""Turns the database's refusal of what exceeds a quota into a problem.

The database counts what is inserted and refuses it (`migrations/functions/taskmill_count_tasks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
import psycopg
from sqlalchemy.exc import DBAPIError

from api.http.problems import Problem
from shared.limits import QUOTA_EXCEEDED

LIVE_RETRY_SECONDS: Final = 5
_COUNTED: Final[Mapping[str, str]] = {
    "tasks_per_day": "tasks in a day",
    "live_tasks": "tasks that are not done",
    "stored_bytes": "bytes of stored files",
    "emails_per_day": "emails in a day",
    "recipients_per_day": "recipients of emails in a day",
}


class QuotaRefusal(NamedTuple):
    """Why the database refused rows: the quota, whose it is, and how much would have been used."""

    name: str
    scope: str
    subject: UUID
    amount: int
    used: int

    def problem(self) -> Problem:
        """Return the problem that names the quota, with `Retry-After` where waiting helps."""
        whose = "Your organization" if self.scope == "organization" else "You"
        detail = (
            f"{whose} may have at most {self.amount:,} {_COUNTED[self.name]}, and with this request it would be "
            f"{self.used:,}. Nothing was stored. `GET /usage` shows what is used and allowed."
        )
        headers = {}
        if self.name.endswith("_per_day"):
            headers["Retry-After"] = str(seconds_left_today())
        elif self.name == "live_tasks":
            headers["Retry-After"] = str(LIVE_RETRY_SECONDS)
        return Problem(problem_name(self.name), detail, headers=headers)


def problem_name(quota: str) -> str:
    """Return the name of the problem that says that a quota is exceeded."""
    return "quota-" + quota.replace("_", "-")


def find_refusal(error: Exception) -> QuotaRefusal | None:
    """Return why the database refused rows, or None if an error has nothing to do with quotas."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error) or cause.sqlstate != QUOTA_EXCEEDED:
        return None
    detail: dict[str, Any] = orjson.loads(cause.diag.message_detail or "{}")
    return QuotaRefusal(detail["name"], detail["scope"], UUID(detail["subject"]), detail["amount"], detail["used"])


def seconds_left_today() -> int:
    """Return in how many seconds the day of UTC ends, and the quotas of a day begin anew."""
    now = datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(1, int((tomorrow - now).total_seconds()) + 1)
