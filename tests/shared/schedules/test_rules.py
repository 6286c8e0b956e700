"""When schedules run: cron rules across daylight saving, intervals, and rules that are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from uuid import UUID

import pytest

from shared.schedules.rules import InvalidRule, Rule, find_jitter, parse_rule


def moments(rule: Rule, after: str, count: int) -> list[str]:
    times = islice(rule.iterate_times(datetime.fromisoformat(after).replace(tzinfo=UTC)), count)
    return [time.strftime("%Y-%m-%d %H:%M") for time in times]


@pytest.mark.parametrize(
    ("cron", "timezone", "after", "expected"),
    [
        # Berlin jumps from 02:00 to 03:00 (01:00 UTC) on 29 March 2026.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28 00:00",
            ["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"],
        ),
        # New York jumps from 02:00 to 03:00 (07:00 UTC) on 8 March 2026.
        ("15 2 * * *", "America/New_York", "2026-03-07 12:00", ["2026-03-08 07:00", "2026-03-09 06:15"]),
        # Lord Howe Island jumps by half an hour, from 02:00 to 02:30, on 4 October 2026 (15:30 UTC the day before).
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-02 20:00", ["2026-10-03 15:30", "2026-10-04 15:15"]),
        # Cairo jumps from midnight to 01:00 on Friday 24 April 2026 (22:00 UTC on Thursday).
        ("0 0 * * *", "Africa/Cairo", "2026-04-22 23:00", ["2026-04-23 22:00", "2026-04-24 21:00"]),
        # Beirut jumps from midnight to 01:00 on Sunday 29 March 2026.
        ("30 0 * * *", "Asia/Beirut", "2026-03-28 00:00", ["2026-03-28 22:00", "2026-03-29 21:30"]),
        # Every quarter of the hour that does not exist is the same moment, which is 03:00 too.
        ("*/15 2,3 * * *", "Europe/Berlin", "2026-03-29 00:30", ["2026-03-29 01:00", "2026-03-29 01:15"]),
    ],
)
def test_a_skipped_local_time_runs_when_the_clocks_are_set_forward(
    cron: str, timezone: str, after: str, expected: list[str]
) -> None:
    assert moments(parse_rule(cron, None, timezone), after, len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "timezone", "after", "expected"),
    [
        # Berlin goes back from 03:00 to 02:00 (01:00 UTC) on 25 October 2026.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-10-24 12:00",
            ["2026-10-25 00:00", "2026-10-25 00:30", "2026-10-26 01:00"],
        ),
        # Lord Howe Island goes back from 02:00 to 01:30 on 5 April 2026 (15:00 UTC the day before).
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-03 20:00", ["2026-04-04 14:45", "2026-04-05 15:15"]),
        # Cairo goes back from midnight to 23:00 on 29 October 2026 (21:00 UTC).
        ("30 23 * * *", "Africa/Cairo", "2026-10-29 12:00", ["2026-10-29 20:30", "2026-10-30 21:30"]),
    ],
)
def test_a_time_that_happens_twice_runs_once(cron: str, timezone: str, after: str, expected: list[str]) -> None:
    assert moments(parse_rule(cron, None, timezone), after, len(expected)) == expected


@pytest.mark.parametrize("hours", ["*", "*/1", "0-23", "0-11,12-23"])
def test_a_rule_for_every_hour_runs_in_both_hours_that_the_clocks_show_twice(hours: str) -> None:
    rule = parse_rule(f"30 {hours} * * *", None, "Europe/Berlin")

    assert moments(rule, "2026-10-25 00:00", 3) == ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"]


@pytest.mark.parametrize(
    ("timezone", "after", "expected"),
    [
        ("Europe/Berlin", "2026-03-29 00:00", ["2026-03-29 00:15", "2026-03-29 01:15", "2026-03-29 02:15"]),
        ("Africa/Cairo", "2026-04-23 21:00", ["2026-04-23 21:15", "2026-04-23 22:15", "2026-04-23 23:15"]),
        # Samoa skipped the whole of 30 December 2011.
        ("Pacific/Apia", "2011-12-30 09:00", ["2011-12-30 09:15", "2011-12-30 10:15", "2011-12-30 11:15"]),
        # Half of the hour from 02:00 exists, from 02:30 (15:30 UTC the day before).
        ("Australia/Lord_Howe", "2026-10-03 14:00", ["2026-10-03 14:45", "2026-10-03 15:30", "2026-10-03 16:15"]),
    ],
)
def test_a_rule_for_every_hour_does_not_run_in_an_hour_that_does_not_exist(
    timezone: str, after: str, expected: list[str]
) -> None:
    assert moments(parse_rule("15 * * * *", None, timezone), after, len(expected)) == expected


@pytest.mark.parametrize("timezone", ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo", "America/New_York"])
@pytest.mark.parametrize("cron", ["*/30 * * * *", "7 * * * *", "0 0 * * *", "59 23 * * *", "*/20 0-3 * * *"])
def test_times_rise_over_a_whole_year_and_each_local_date_is_seen(cron: str, timezone: str) -> None:
    rule = parse_rule(cron, None, timezone)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    times = []
    for time in rule.iterate_times(begin):
        if time > begin + timedelta(days=365):
            break
        times.append(time)

    assert all(earlier < later for earlier, later in pairwise(times))
    assert len({time.astimezone(rule.timezone).date() for time in times}) >= 365


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 0 29 2 *", "2026-01-01 00:00", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 12 31 * *", "2026-03-01 00:00", ["2026-03-31 12:00", "2026-05-31 12:00", "2026-07-31 12:00"]),
        ("@daily", "2026-01-01 00:00", ["2026-01-02 00:00"]),
        (" @Hourly ", "2026-01-01 00:00", ["2026-01-01 01:00"]),
        ("0 9 * * MON-FRI", "2026-11-27 10:00", ["2026-11-30 09:00"]),
        ("0 9 1 * 1", "2026-11-29 00:00", ["2026-11-30 09:00", "2026-12-01 09:00", "2026-12-07 09:00"]),
    ],
)
def test_cron_fields_of_days_select_the_right_dates(cron: str, after: str, expected: list[str]) -> None:
    assert moments(parse_rule(cron, None), after, len(expected)) == expected


def test_an_interval_counts_from_its_start_and_runs_at_it() -> None:
    starts_at = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)
    rule = parse_rule(None, 90, "UTC", starts_at)

    times = list(islice(rule.iterate_times(starts_at - timedelta(days=1)), 2))
    later = next(rule.iterate_times(starts_at + timedelta(seconds=90)))

    assert times == [starts_at, starts_at + timedelta(seconds=90)]
    assert later == starts_at + timedelta(seconds=180)


def test_a_rule_ends_at_its_last_moment() -> None:
    ends_at = datetime(2026, 1, 1, 2, tzinfo=UTC)
    rule = parse_rule("0 * * * *", None, "UTC", None, ends_at)

    assert moments(rule, "2026-01-01 00:30", 9) == ["2026-01-01 01:00", "2026-01-01 02:00"]


@pytest.mark.parametrize(
    ("cron", "every_seconds", "timezone", "words"),
    [
        ("0 0 30 2 *", None, "UTC", "matches no date"),
        ("0 0 31 4,6 *", None, "UTC", "matches no date"),
        ("0 0 0 * * *", None, "UTC", "five fields"),
        ("60 * * * *", None, "UTC", "minute"),
        ("@reboot", None, "UTC", "@daily"),
        ("", None, "UTC", "five fields"),
        (None, 0, "UTC", "at least one second"),
        (None, None, "UTC", "one of `cron` and `every`"),
        ("@daily", 60, "UTC", "one of `cron` and `every`"),
        ("*/90 * * * *", None, "UTC", "longer than its field"),
        ("0 0,6/48 * * *", None, "UTC", "longer than its field"),
        ("0 0 1 */18 *", None, "UTC", "longer than its field"),
        ("0 0 * * 1/8", None, "UTC", "longer than its field"),
        ("@daily", None, "Europe/Atlantis", "time zone"),
        ("@daily", None, "localtime", "time zone"),
        ("@daily", None, "../etc/passwd", "time zone"),
    ],
)
def test_a_rule_that_cannot_run_is_refused(
    cron: str | None, every_seconds: int | None, timezone: str, words: str
) -> None:
    with pytest.raises(InvalidRule, match=words):
        parse_rule(cron, every_seconds, timezone)


def test_a_rule_that_ends_before_its_first_time_is_refused() -> None:
    start, end = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)

    with pytest.raises(InvalidRule, match="ends before it starts"):
        parse_rule("@daily", None, "UTC", start, end)
    with pytest.raises(InvalidRule, match="has no time"):
        parse_rule("0 0 29 2 *", None, "UTC", start, start + timedelta(days=300))


@pytest.mark.parametrize("starts_at", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
@pytest.mark.parametrize(("cron", "every_seconds"), [("@daily", None), ("0 0 29 2 *", None), (None, 315_360_000)])
def test_a_start_outside_of_the_calendar_is_refused(
    cron: str | None, every_seconds: int | None, starts_at: datetime
) -> None:
    with pytest.raises(InvalidRule, match="1900 to 8999") as caught:
        parse_rule(cron, every_seconds, "America/New_York", starts_at)

    assert caught.value.field == "starts_at"


@pytest.mark.parametrize("days", ["1-31 * 1", "1 * 0-6", "1 * 1-7", "15 * 1,*"])
def test_a_rule_that_fits_every_day_is_described_as_such(days: str) -> None:
    rule = parse_rule(f"0 0 {days}", None)

    assert moments(rule, "2026-11-01 00:00", 9) == [f"2026-11-{day:02} 00:00" for day in range(2, 11)]
    assert rule.describe() == "At 00:00 every day (UTC)"


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 0 31 * *", "on the 31st day"),
        ("0 0 11,22 * *", "on the 11th and the 22nd day"),
        ("*/23 * * * *", "Every 23rd minute"),
    ],
)
def test_ordinal_numbers_have_their_english_endings(cron: str, words: str) -> None:
    assert words in parse_rule(cron, None).describe()


def test_an_end_that_is_later_than_the_calendar_by_utc_is_refused() -> None:
    with pytest.raises(InvalidRule, match="9999") as caught:
        parse_rule(None, 1, ends_at=datetime.fromisoformat("9999-12-31T23:59:59-05:00"))

    assert caught.value.field == "ends_at"
    assert parse_rule(None, 1, ends_at=datetime.fromisoformat("9999-12-31T23:59:59Z")).ends_at is not None


def test_an_interval_may_run_only_at_the_moment_that_it_starts() -> None:
    start = datetime(2026, 1, 2, tzinfo=UTC)

    rule = parse_rule(None, 60, "UTC", start, start + timedelta(seconds=30))

    assert list(rule.iterate_times(datetime(2026, 1, 1, tzinfo=UTC))) == [start]


def test_a_rule_is_described_in_plain_words() -> None:
    assert parse_rule("30 2 * * *", None, "Europe/Berlin").describe() == "At 02:30 every day (Europe/Berlin)"
    assert [parse_rule(None, seconds).describe() for seconds in (1, 90, 3600, 172_800)] == [
        "Every second",
        "Every 90 seconds",
        "Every hour",
        "Every 2 days",
    ]


def test_jitter_is_the_same_for_the_same_slot_and_within_its_bound() -> None:
    slots = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(500)]
    waits = [find_jitter(UUID(int=1), slot, 60) for slot in slots]

    assert waits == [find_jitter(UUID(int=1), slot, 60) for slot in slots]
    assert all(timedelta(0) <= wait < timedelta(seconds=60) for wait in waits)
    assert len(set(waits)) > 400
