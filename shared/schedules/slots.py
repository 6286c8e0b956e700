"""Decides which slots of a schedule get a task now, and which slot is the next."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, assert_never

from shared.schedules.rules import Rule

MISSED_AFTER: Final = timedelta(seconds=60)
"""How late beat may process a slot, such as after a deploy, without the slot counting as missed."""
MOST_MISSED: Final = 100
"""How many missed slots get a task at most. If there are more, the latest do."""


class Missed(StrEnum):
    """What happens to missed slots: those that passed while beat was not running or the database was away."""

    SKIP = "skip"
    """They get no task."""
    RUN_ONCE = "run_once"
    """The latest of them gets one, unless a slot that is on time gets one now."""
    RUN_ALL = "run_all"
    """Each gets one, up to `MOST_MISSED`."""


class Plan(NamedTuple):
    """What to do with a schedule at one moment."""

    slots: list[datetime]
    """The slots that get a task, oldest first."""
    next_at: datetime | None
    """The first slot after that moment; None if the rule has no further slot."""


def plan_slots(rule: Rule, next_at: datetime, planned_at: datetime, now: datetime, missed: Missed) -> Plan:
    """Return the plan for a schedule at the time `now`.

    `next_at` is the first slot that was not processed, and `planned_at` is when that was computed. Slots of the last minute that
    are later than `planned_at` are on time, and each of them gets a task. The cost does not grow with the age of `next_at`.
    """
    after = next(rule.iterate_times(now), None)
    passed = _list_latest(rule, next_at, now)
    on_time = [slot for slot in passed if slot > planned_at and now - slot <= MISSED_AFTER]
    match missed:
        case Missed.SKIP:
            slots = on_time
        case Missed.RUN_ONCE:
            slots = on_time or passed[-1:]
        case Missed.RUN_ALL:
            slots = passed
        case _:
            assert_never(missed)
    return Plan(slots, after)


def _list_latest(rule: Rule, begin: datetime, end: datetime) -> list[datetime]:
    """Return the latest slots from `begin` to `end`, both inclusive: `MOST_MISSED` at most."""
    span = timedelta(hours=1)
    while True:
        start = max(begin, end - span) - timedelta(microseconds=1)
        found: deque[datetime] = deque(maxlen=MOST_MISSED)
        for time in rule.iterate_times(start):
            if time > end:
                break
            found.append(time)
        if len(found) == MOST_MISSED or end - span <= begin:
            return list(found)
        # A rule that runs every second fills the deque within an hour; a yearly one needs decades.
        span *= 2
