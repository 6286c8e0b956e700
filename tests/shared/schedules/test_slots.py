"""Which slots of a schedule get a task: those that are on time, and of those that were missed, what the schedule says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shared.schedules.rules import parse_rule
from shared.schedules.slots import MOST_MISSED, Missed, plan_slots

NOW = datetime(2026, 11, 29, 12, 0, 30, tzinfo=UTC)
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize("missed", list(Missed))
def test_each_slot_that_is_on_time_gets_a_task(missed: Missed) -> None:
    rule = parse_rule(None, 1)

    plan = plan_slots(rule, NOW - timedelta(seconds=2), NOW - timedelta(seconds=3), NOW, missed)

    assert plan.slots == [NOW - timedelta(seconds=2), NOW - timedelta(seconds=1), NOW]
    assert plan.next_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("missed", "hours"), [(Missed.SKIP, [12]), (Missed.RUN_ONCE, [12]), (Missed.RUN_ALL, [8, 9, 10, 11, 12])]
)
def test_missed_slots_get_tasks_beside_one_that_is_on_time(missed: Missed, hours: list[int]) -> None:
    plan = plan_slots(parse_rule("0 * * * *", None), NOON.replace(hour=8), NOON.replace(hour=7), NOW, missed)

    assert [slot.hour for slot in plan.slots] == hours


@pytest.mark.parametrize(
    ("missed", "hours"), [(Missed.SKIP, []), (Missed.RUN_ONCE, [12]), (Missed.RUN_ALL, [10, 11, 12])]
)
def test_missed_slots_get_tasks_when_none_is_on_time(missed: Missed, hours: list[int]) -> None:
    now = NOON + timedelta(minutes=20)

    plan = plan_slots(parse_rule("0 * * * *", None), NOON.replace(hour=10), NOON.replace(hour=9), now, missed)

    assert [slot.hour for slot in plan.slots] == hours
    assert plan.next_at == NOON.replace(hour=13)


def test_slots_before_the_schedule_was_planned_are_not_on_time() -> None:
    plan = plan_slots(parse_rule(None, 1), datetime.fromtimestamp(0, UTC), NOW, NOW, Missed.RUN_ONCE)

    assert plan.slots == [NOW]


@pytest.mark.parametrize("cron", ["* * * * *", "0 0 * * *", "0 0 1 1 *"])
def test_of_many_missed_slots_the_latest_get_tasks(cron: str) -> None:
    begin = datetime(1900, 1, 1, tzinfo=UTC)

    plan = plan_slots(parse_rule(cron, None), begin, begin, NOW, Missed.RUN_ALL)

    assert len(plan.slots) == MOST_MISSED
    assert plan.slots == sorted(plan.slots)
    assert plan.next_at is not None
    assert plan.slots[-1] <= NOW < plan.next_at


def test_a_rule_that_has_ended_has_no_next_slot() -> None:
    rule = parse_rule("0 * * * *", None, ends_at=NOON)

    plan = plan_slots(rule, NOON, NOON - timedelta(minutes=1), NOW, Missed.SKIP)

    assert (plan.slots, plan.next_at) == ([NOON], None)
