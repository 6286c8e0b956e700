"""The log of outages: each reason at once, then rarely, and the end of the outage once."""

from __future__ import annotations

import time

import psycopg
import pytest
import redis
from structlog.testing import capture_logs

from shared.outage_log import OutageLog


class Clock:
    """Stands for `time.monotonic`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_each_reason_is_logged_at_once_and_every_half_minute(clock: Clock) -> None:
    outage = OutageLog("broker")

    with capture_logs() as logged:
        for clock.now in (1000.0, 1010.0, 1029.0, 1031.0):
            outage.warn(redis.ConnectionError("Connection refused."))
        outage.warn(redis.TimeoutError("Timeout reading from socket"))

    assert [(entry["event"], entry["log_level"], entry["reason"]) for entry in logged] == [
        ("broker_away", "warning", "Connection refused."),
        ("broker_away", "warning", "Connection refused."),
        ("broker_away", "warning", "Timeout reading from socket"),
    ]


def test_the_end_of_an_outage_is_logged_once(clock: Clock) -> None:
    outage = OutageLog("database")

    with capture_logs() as logged:
        outage.end()
        outage.warn(psycopg.OperationalError("it is gone"))
        clock.now += 12
        outage.end()
        outage.end()
        outage.warn(psycopg.OperationalError("it is gone"))

    assert [(entry["event"], entry["log_level"]) for entry in logged] == [
        ("database_away", "warning"),
        ("database_back", "info"),
        ("database_away", "warning"),
    ]
    assert logged[1]["after_seconds"] == 12


def test_a_deadlock_is_no_outage() -> None:
    outage = OutageLog("database")

    with capture_logs() as logged:
        outage.warn(psycopg.errors.DeadlockDetected("deadlock detected"))
        outage.end()

    assert [entry["event"] for entry in logged] == ["deadlock_detected"]


def test_only_errors_of_connections_are_quoted() -> None:
    outage = OutageLog()

    with capture_logs() as logged:
        outage.warn(psycopg.errors.UniqueViolation("ada@example.com is there already"))

    assert logged[0]["reason"] == "UniqueViolation"


def test_the_error_of_a_connection_names_no_password() -> None:
    outage = OutageLog()

    with capture_logs() as logged:
        with pytest.raises(psycopg.OperationalError) as failed:
            psycopg.connect("postgresql://taskmill:s3cret@127.0.0.1:1/nothing")
        outage.warn(failed.value)
        with pytest.raises(redis.ConnectionError) as lost:
            redis.Redis.from_url("redis://taskmill:s3cret@127.0.0.1:1/0").ping()
        outage.warn(lost.value)

    assert all("refused" in entry["reason"] for entry in logged)
    assert "s3cret" not in str(logged)
