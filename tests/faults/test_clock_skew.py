"""Workers and relays whose clocks are an hour fast or slow. Only the clock of the database matters."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx2

from tests.faults.conftest import Room

LEASE_SECONDS = 9.0
"""It is renewed after three."""

# Loaded by every Python process that finds it on its path, before anything else.
CLOCK = """
import datetime, os, time
OFFSET = float(os.environ["TEST_CLOCK_OFFSET"])
real, real_ns, Real = time.time, time.time_ns, datetime.datetime
time.time = lambda: real() + OFFSET
time.time_ns = lambda: real_ns() + int(OFFSET * 1e9)

class Meta(type):
    def __instancecheck__(cls, value):
        return isinstance(value, Real)

class Skewed(Real, metaclass=Meta):
    @classmethod
    def now(cls, tz=None):
        return Real.now(tz) + datetime.timedelta(seconds=OFFSET)

datetime.datetime = Skewed
"""


def test_clocks_that_are_an_hour_wrong_have_no_effect(room: Room, client: httpx2.Client, tmp_path: Path) -> None:
    folder = tmp_path / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK)
    began = time.time()
    for offset in ("3600", "-3600"):
        skew = {"PYTHONPATH": str(folder), "TEST_CLOCK_OFFSET": offset}
        room.start("relay", **skew)
        room.worker(**skew)
    long = [room.submit(client, params={"sleep_ms": 4500}) for _ in range(2)]
    late = room.submit(client, delay=1)
    pings = room.submit_many(client, 30)

    statuses = room.settle()

    assert set(statuses.values()) == {"succeeded"}
    assert [room.attempts(task_id) for task_id in (*long, late, *pings)] == [1] * 33
    off = "SELECT count(*) FROM tasks WHERE least(started_at, created_at) < to_timestamp(%s) OR finished_at > now()"
    assert room.ask(off, (began - 1,)) == [(0,)]
    assert room.ask("SELECT started_at >= run_at FROM tasks WHERE id = %s", (late,)) == [(True,)]
    lines = [json.loads(line) for line in room.parts.logs().splitlines() if line.startswith("{")]
    # Not in whole lines, because a timestamp or an id may contain the number by chance.
    assert not [line for line in lines if "3600" in line["event"] or "drift" in line["event"].lower()]
    hours = [
        value for line in lines for value in line.values() if isinstance(value, float) and 3500 < abs(value) < 3700
    ]
    assert hours == []
