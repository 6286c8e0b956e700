"""Named places in the code at which a test lets the process die, as a crash there would.

`TASKMILL_KILL_POINT=name` kills the process by SIGKILL when it first comes to that place, `name:3` at the third time, and
`name:1:stop` stops it by SIGSTOP instead, to be continued by whoever stopped it. It is refused unless
`TASKMILL_ENVIRONMENT=development` is said in so many words, and in production always (`Settings.refuse_unsafe_production`).
Without it, `reach` is a function that does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Final, Literal, get_args

from shared.errors import ConfigurationError

VARIABLE: Final = "TASKMILL_KILL_POINT"
Point = Literal[
    "api-before-commit",
    "api-after-commit",
    "relay-after-mark",
    "relay-after-publish",
    "beat-after-slot",
    "after-claim",
    "before-finish",
    "after-intent",
    "after-smtp-accept",
    "after-receipt",
]
"""Before and after the commit of submissions; between marking tasks and publishing them, and after; between taking a slot
and inserting its task; after a claim; when an attempt's work is done and its artifacts are stored, before its end is
written; after an email's intent, after the server's answer, after the receipt."""


def _do_nothing(point: Point) -> None:
    """Be reached, and do nothing."""


reach: Callable[[Point], None] = _do_nothing
"""Called, as `kill_points.reach(…)`, where a process comes to a point."""


def arm(environment: str | None) -> None:
    """Arm the point that the variable names, if any. Raises `ConfigurationError` when it is unknown or not allowed.

    `environment` is what `TASKMILL_ENVIRONMENT` says, None when it says nothing.
    """
    global reach
    value = os.environ.get(VARIABLE)
    if not value:
        return
    if environment != "development":
        raise ConfigurationError(
            f"{VARIABLE} makes processes die, and is for tests: unset it, or set TASKMILL_ENVIRONMENT=development"
        )
    name, _, rest = value.partition(":")
    count, _, action = rest.partition(":")
    if name not in get_args(Point) or not (count or "1").isdigit() or action not in {"", "stop"}:
        raise ConfigurationError(f"{VARIABLE} must be name, name:n or name:n:stop: {', '.join(get_args(Point))}")
    reach = _Trap(name, int(count or "1"), signal.SIGSTOP if action == "stop" else signal.SIGKILL)


class _Trap:
    """Sends this process a signal at the n-th time that a point is reached, by whichever thread."""

    def __init__(self, name: str, count: int, number: signal.Signals) -> None:
        self._name = name
        self._left = count
        self._signal = number
        self._lock = threading.Lock()

    def __call__(self, point: Point) -> None:
        if point != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signal)
