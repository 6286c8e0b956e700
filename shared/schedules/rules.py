"""When a schedule runs: a cron rule in a time zone, or an interval in seconds.

Cron rules have five fields (minute, hour, day of month, month, day of week), as cron(8) of Debian reads them, or are one of
`ALIASES`. They are interpreted in a time zone, whose clocks daylight saving time changes:

- A time that does not exist, because the clocks are set forward over it, runs at the moment of that change.
- A time that occurs twice, because the clocks are set back, runs once, at its first occurrence.
- A rule for every hour, written as `*`, `*/1` or `0-23`, is an interval rather than a time of day: it runs in both of two hours
  that the clocks show alike, and not in an hour that they skip.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import heappop, heappush
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""Names for common cron rules."""

LONGEST_JUMP: Final = timedelta(hours=25)
"""An upper bound for a change of clocks. The largest was a day, which Samoa skipped in 2011."""

EARLIEST_START: Final = datetime(1900, 1, 1, tzinfo=UTC)
LATEST_START: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""Far enough from the first and the last year of `datetime` that the times of every rule can be computed."""
LATEST_END: Final = datetime.max.replace(tzinfo=UTC)
"""The last moment that can be read back from the database. In a zone west of UTC, later ones can be written."""

VALUES_OF_FIELDS: Final = (60, 24, 31, 12, 7)
"""How many values the fields of a cron rule have: minute, hour, day of month, month, day of week."""


_ORDINAL: Final = re.compile(r"\b(?P<tens>[2-5])(?P<ones>[123])th\b")
_ENDINGS: Final = {"1": "1st", "2": "2nd", "3": "3rd"}


class InvalidRule(ValueError):
    """A rule that cannot be parsed or has no time at all. The message is a sentence for the caller."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        """Which part of the rule is at fault: `cron`, `every`, `timezone`, `starts_at` or `ends_at`."""


@dataclass(frozen=True)
class Rule:
    """A validated rule. Use `parse_rule` to create one."""

    cron: str | None
    """Five fields; None for an interval."""
    every_seconds: int | None
    """The interval; None for a cron rule."""
    timezone: ZoneInfo
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    """The last moment at which it may run."""

    def iterate_times(self, after: datetime) -> Iterator[datetime]:
        """Yield the moments at which the rule runs, later than `after`, in order and in UTC. May never end."""
        if self.starts_at is not None and self.starts_at > after:
            # A rule may run at the moment that it starts.
            after = self.starts_at - timedelta(microseconds=1)
        times = self._iterate_interval(after) if self.cron is None else self._iterate_cron(self.cron, after)
        for time in times:
            if self.ends_at is not None and time > self.ends_at:
                return
            yield time

    def describe(self) -> str:
        """Return the rule in plain English, such as `At 02:30 every day (Europe/Berlin)`."""
        if self.cron is not None:
            return f"{_describe_cron(self.cron)} ({self.timezone.key})"
        assert self.every_seconds is not None, "a rule is a cron rule or an interval"
        return f"Every {_describe_seconds(self.every_seconds)}"

    def _iterate_interval(self, after: datetime) -> Iterator[datetime]:
        assert self.every_seconds is not None, "a rule is a cron rule or an interval"
        interval = timedelta(seconds=self.every_seconds)
        origin = self.starts_at or datetime.fromtimestamp(0, UTC)
        time = origin + ((after - origin) // interval + 1) * interval
        while True:
            yield time
            time += interval

    def _iterate_cron(self, cron: str, after: datetime) -> Iterator[datetime]:
        runs_every_hour = len(_read_cron(cron).hours) == 24
        begin = after.astimezone(self.timezone).replace(tzinfo=None)
        if _find_offset(after, self.timezone) != _find_offset(after - LONGEST_JUMP, self.timezone):
            # The clocks were changed, so earlier local times may denote moments later than `after`.
            begin -= LONGEST_JUMP
        waiting: list[datetime] = []
        last = after
        for local in CronSim(cron, begin):
            if runs_every_hour and _is_in_skipped_hour(local, self.timezone):
                continue
            first, second = _find_moments(local, self.timezone)
            heappush(waiting, first)
            if runs_every_hour and second is not None:
                heappush(waiting, second)
            # The first moments of later local times are never earlier than this one.
            while waiting and waiting[0] <= first:
                time = heappop(waiting)
                if time > last:
                    last = time
                    yield time
        while waiting:
            time = heappop(waiting)
            if time > last:
                last = time
                yield time


def parse_rule(
    cron: str | None,
    every_seconds: int | None,
    timezone: str = "UTC",
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
) -> Rule:
    """Return the checked rule of a schedule. Raises `InvalidRule`.

    Exactly one of `cron` and `every_seconds` is given. `timezone` is an IANA name; an interval does not use it.
    """
    if (cron is None) == (every_seconds is None):
        raise InvalidRule("cron", "A schedule needs one of `cron` and `every`, and not both.")
    if every_seconds is not None and every_seconds < 1:
        raise InvalidRule("every", "An interval is at least one second.")
    if timezone not in _list_timezones():
        raise InvalidRule("timezone", f"{timezone!r} is not a time zone of the IANA database, such as 'Europe/Berlin'.")
    if starts_at is not None and not EARLIEST_START <= starts_at < LATEST_START:
        raise InvalidRule("starts_at", "A schedule starts in the years 1900 to 8999.")
    if ends_at is not None and ends_at > LATEST_END:
        raise InvalidRule("ends_at", "A schedule ends in the year 9999 by UTC at the latest.")
    if starts_at is not None and ends_at is not None and ends_at < starts_at:
        raise InvalidRule("ends_at", "The schedule ends before it starts.")
    rule = Rule(None if cron is None else _parse_cron(cron), every_seconds, ZoneInfo(timezone), starts_at, ends_at)
    # It may run at the moment that it starts.
    begin = (starts_at or datetime(2000, 1, 1, tzinfo=UTC)) - timedelta(microseconds=1)
    if next(rule.iterate_times(begin), None) is None:
        field = "cron" if ends_at is None else "ends_at"
        raise InvalidRule(field, "The rule has no time: it matches no date, or none before its end.")
    return rule


def find_jitter(schedule_id: UUID, slot: datetime, longest_seconds: int) -> timedelta:
    """Return how long after its slot a task starts: from 0 to `longest_seconds`, always the same for the same slot."""
    digest = hashlib.sha256(schedule_id.bytes + slot.isoformat().encode()).digest()
    return timedelta(seconds=longest_seconds * int.from_bytes(digest[:4], "big") / 2**32)


@cache
def _list_timezones() -> set[str]:
    # Reading the names of the whole database takes tens of milliseconds.
    # `localtime` is not an IANA name: it means the zone of the machine.
    return available_timezones() - {"localtime"}


def _parse_cron(cron: str) -> str:
    text = ALIASES.get(cron.strip().lower(), cron.strip())
    if text.startswith("@"):
        raise InvalidRule("cron", f"{cron!r} is not one of {', '.join(ALIASES)}.")
    fields = text.split()
    if len(fields) != 5:
        raise InvalidRule(
            "cron", f"A cron rule has five fields (minute, hour, day, month, day of week), not {len(fields)}."
        )
    try:
        _read_cron(text)
    except CronSimError as error:
        raise InvalidRule(
            "cron", f"The cron rule {text!r} is invalid or matches no date: {str(error).lower()}."
        ) from None
    for field, values in zip(fields, VALUES_OF_FIELDS, strict=True):
        for item in field.split(","):
            _, _, step = item.partition("/")
            if step and int(step) > values:
                message = (
                    f"The step in {item!r} is longer than its field, which has {values} values. "
                    "For an interval, use `every`, in seconds."
                )
                raise InvalidRule("cron", message)
    return " ".join(fields)


def _read_cron(cron: str) -> CronSim:
    # Local times have no zone until they are placed in one.
    return CronSim(cron, datetime(2000, 1, 1))  # noqa: DTZ001


def _describe_cron(cron: str) -> str:
    """Return a cron rule in plain English."""
    rule = _read_cron(cron)
    weekdays = {day % 7 for day in rule.weekdays if isinstance(day, int)}
    if not rule.day_and and (len(rule.days) == 31 or len(weekdays) == 7):
        # A day has to fit one of the two fields, and one of them fits every day: `1-31 * 1` does not mean Mondays.
        minute, hour, _, month, _ = cron.split()
        rule = _read_cron(f"{minute} {hour} * {month} *")
    # The library writes `31th`.
    return _ORDINAL.sub(lambda found: found["tens"] + _ENDINGS[found["ones"]], rule.explain())


def _find_moments(local: datetime, zone: ZoneInfo) -> tuple[datetime, datetime | None]:
    """Return the moment, in UTC, at which the clocks of a zone show a local time, and the second one where there are two.

    For a local time that the clocks skip, it is the moment at which they are set forward.
    """
    earlier = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    later = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if earlier == later:
        return earlier, None
    # In a gap the offset before the jump applies to fold 0 (PEP 495), so that its moment is the later one.
    if earlier > later:
        return _find_jump(later, earlier, zone), None
    return earlier, later


def _is_in_skipped_hour(local: datetime, zone: ZoneInfo) -> bool:
    """Return whether the clocks of a zone jump over a local time, and over all of its hour."""
    if _exists(local, zone):
        return False
    return not _exists(local.replace(minute=0), zone) and not _exists(local.replace(minute=59), zone)


def _exists(local: datetime, zone: ZoneInfo) -> bool:
    """Return whether the clocks of a zone ever show a local time."""
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    return moment.astimezone(zone).replace(tzinfo=None) == local


def _find_offset(time: datetime, zone: ZoneInfo) -> timedelta | None:
    return time.astimezone(zone).utcoffset()


def _find_jump(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment between the two at which the offset of the zone changes, to the second."""
    offset = _find_offset(before, zone)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        middle = middle.replace(microsecond=0)
        if _find_offset(middle, zone) == offset:
            before = middle
        else:
            after = middle
    return after


def _describe_seconds(seconds: int) -> str:
    for length, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds % length == 0:
            count = seconds // length
            return unit if count == 1 else f"{count} {unit}s"
    raise AssertionError("every number is a number of seconds")
