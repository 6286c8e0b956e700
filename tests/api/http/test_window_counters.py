"""The counters of rate limits: fixed windows in memory."""

from __future__ import annotations

import threading

import pytest
from limits import parse

from api.http import rate_limits
from api.http.rate_limits import WindowCounters, limiter
from tests.conftest import PATIENCE_SECONDS


class Clock:
    """A clock that only moves when a test sets it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limits, "time", clock)
    return clock


def test_slowapi_uses_the_window_counters() -> None:
    assert isinstance(limiter.limiter.storage, WindowCounters)


def test_a_window_begins_with_its_first_request_and_is_over_after_its_time(clock: Clock) -> None:
    counters, minute = WindowCounters(), parse("2/minute")
    key = minute.key_for("someone", "read")

    counts = [counters.incr(key, 60), counters.incr(key, 60)]
    ends = counters.get_expiry(key)
    clock.now += 60

    assert counts == [1, 2]
    assert ends == 1_000_060
    assert counters.incr(key, 60) == 1


def test_counters_of_windows_that_are_over_are_deleted(clock: Clock) -> None:
    counters = WindowCounters()
    for number in range(100):
        counters.incr(f"address-{number}", 60)
    clock.now += 61
    counters.incr("someone else", 60)

    assert list(counters.storage) == list(counters.expirations) == ["someone else"]


def test_counting_starts_no_thread() -> None:
    counters = WindowCounters()
    counters.timer.join(PATIENCE_SECONDS)
    before = threading.active_count()

    for _ in range(1000):
        counters.incr("someone", 60)

    assert threading.active_count() == before
