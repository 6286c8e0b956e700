"""Which slots of a schedule get a task now, and which is the next to look at."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, assert_never

from shared.schedules.rules import Rule

MISSED_AFTER: Final = timedelta(seconds=60)
"""How late a slot may be looked at, as during a deploy, and still count as not missed."""
MOST_MISSED: Final = 100
"""How many missed slots are made up for; of more, the latest are."""


class Missed(StrEnum):
    """What happens to slots that passed while nothing watched the clock, or while the schedule was paused by an outage."""

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
    """The first slot after that moment; None when the rule comes no more."""


def plan_slots(rule: Rule, next_at: datetime, planned_at: datetime, now: datetime, missed: Missed) -> Plan:
    """Return what to do, given the first slot that was not looked at yet, and when that was found to be the first.

    Slots of the last minute since then are on time, and each of them gets a task. Costs little however long ago `next_at` is.
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
        # An hour of a rule for each second is a deque that is full at once; one for each year needs decades.
        span *= 2
