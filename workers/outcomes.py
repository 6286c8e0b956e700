"""How an attempt ends. A handler returns its kind's `Result`, or raises one of these.

    Failed              the work cannot be done: finally, or (retryable) until a later attempt
    Stopped             the attempt must stop; raised by the context, never by a handler
    ├── Cancelled       a caller cancelled the task
    ├── TimedOut        the attempt's time is over
    ├── Requeued        the worker stops, or others have the slot first; the task is requeued, and the attempt does not count
    └── ClaimLost       the task is no longer this attempt's: nothing may be written

`Stopped` is not an `Exception`, so that a handler's `except Exception` does not swallow it.
Any other exception is an error in the handler: `/problems/internal-error`, retryable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Failed(Exception):
    """The attempt failed in a way that has a name.

    `type` is a stable URI reference such as `/problems/unreadable-image`; `title` says the same in a few words;
    `detail` tells the caller about this case, in a sentence that holds no path, secret or stack; `data` is an object
    whose shape the kind describes. With `retryable`, the task is tried again while attempts are left, after
    `after_seconds` if given, else after the kind's backoff.
    """

    def __init__(
        self,
        type: str,
        title: str,
        detail: str | None = None,
        *,
        retryable: bool = False,
        after_seconds: float | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{type}: {detail or title}")
        self.type = type
        self.title = title
        self.detail = detail
        self.retryable = retryable
        self.after_seconds = after_seconds
        self.data = dict(data) if data is not None else None


class Stopped(BaseException):
    """The attempt must stop, and does at its next check."""


class Cancelled(Stopped):
    """A caller cancelled the task."""


class TimedOut(Stopped):
    """The attempt's time is over."""


class Requeued(Stopped):
    """The task is requeued before the attempt could end: the worker stops, or the handler called `requeue` of its context."""


class ClaimLost(Stopped):
    """The row is no longer claimed by this attempt."""
