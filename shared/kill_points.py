"""Named places in the code at which a test kills the process, as a crash there would.

`TASKMILL_KILL_POINT=name` kills the process with SIGKILL when it first reaches that place, `name:3` at the third time.
`name:1:stop` stops it with SIGSTOP instead; the test continues it. The variable is refused unless
`TASKMILL_ENVIRONMENT=development` is set explicitly, and always in production (`Settings.refuse_unsafe_production`).
Without the variable, `reach` does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Final, Literal, get_args

from shared.errors import ConfigurationError

KILL_POINT_VARIABLE: Final = "TASKMILL_KILL_POINT"
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
    "after-bulk-step",
]
"""In this order:

- before and after the commit of submissions;
- between marking tasks and publishing them, and after publishing;
- between inserting a slot of a schedule and inserting its task;
- after a claim;
- after an attempt's work, with its artifacts stored, before its finish is written;
- after an email's intent, after the mail server's answer, and after the receipt;
- after a step of an action on many tasks.
"""


def _do_nothing(point: Point) -> None:
    """Ignore the point: no kill point is armed."""


reach: Callable[[Point], None] = _do_nothing
"""Called as `kill_points.reach(…)` where a process reaches a point."""


def arm(environment: str | None) -> None:
    """Arm the point that the variable names, if it is set. Raises `ConfigurationError` if it is unknown or not allowed.

    `environment` is the value of `TASKMILL_ENVIRONMENT`, None if it is not set.
    """
    global reach
    value = os.environ.get(KILL_POINT_VARIABLE)
    if not value:
        return
    if environment != "development":
        raise ConfigurationError(
            f"{KILL_POINT_VARIABLE} kills processes and is for tests only: unset it, or set TASKMILL_ENVIRONMENT=development"
        )
    name, _, rest = value.partition(":")
    count, _, action = rest.partition(":")
    if name not in get_args(Point) or not (count or "1").isdigit() or action not in {"", "stop"}:
        raise ConfigurationError(
            f"{KILL_POINT_VARIABLE} must be name, name:n or name:n:stop: {', '.join(get_args(Point))}"
        )
    reach = _Trap(name, int(count or "1"), signal.SIGSTOP if action == "stop" else signal.SIGKILL)


class _Trap:
    """Sends this process a signal when any thread reaches a point for the n-th time."""

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
