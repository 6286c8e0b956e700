from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cli.local_stack.child_process import Command, spawn, wait_until
from cli.local_stack.log_printer import LogPrinter
from cli.local_stack.process_identity import identify, is_alive, list_marked, wait_until_gone
from cli.local_stack.process_record import MARK, ProcessRecord
from cli.local_stack.supervisor import Part, Supervisor
from tests.conftest import PATIENCE_SECONDS

OWN = f"{os.getpid()}-"
"""Marks of this process's own: another may run the same tests at the same time."""


def make_part(name: str, script: str, mark: str, patience_seconds: float = 3.0) -> Part:
    environment = {"PATH": os.environ["PATH"], MARK: OWN + mark}
    return Part(name, Command(("/bin/sh", "-c", script), environment), patience_seconds=patience_seconds)


async def until(condition: Callable[[], bool], limit_seconds: float = 60) -> None:
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


def make_supervisor(tmp_path: Path, mark: str, on_restart: Callable[[], None] = lambda: None) -> Supervisor:
    return Supervisor(LogPrinter(width=8), ProcessRecord(tmp_path / "processes.json", OWN + mark), on_restart)


def test_a_part_that_dies_is_restarted_and_reported(tmp_path: Path) -> None:
    restarts: list[float] = []

    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, "restart", lambda: restarts.append(time.monotonic()))
        await supervisor.start(make_part("sleeper", "exec sleep 60", "restart"))
        first = supervisor.find_pid("sleeper")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(restarts) == 1)
        assert supervisor.find_pid("sleeper") != first
        await supervisor.stop([["sleeper"]], limit_seconds=5)

    asyncio.run(scenario())


def test_a_restarted_part_runs_again_even_if_it_ignores_the_signal(tmp_path: Path) -> None:
    restarts: list[float] = []

    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, "reload", lambda: restarts.append(time.monotonic()))
        await supervisor.start(make_part("obedient", "exec sleep 60", "reload"))
        await supervisor.start(make_part("stubborn", "trap '' TERM; sleep 60; sleep 60", "reload", 0.3))
        before = {name: supervisor.find_pid(name) for name in ("obedient", "stubborn")}
        for name in before:
            await supervisor.restart(name)
        await until(lambda: len(restarts) == 2)
        assert all(supervisor.find_pid(name) != pid for name, pid in before.items())
        await supervisor.stop([["obedient", "stubborn"]], limit_seconds=1)

    asyncio.run(scenario())


def test_a_part_that_keeps_dying_is_restarted_after_growing_pauses(tmp_path: Path) -> None:
    restarts: list[float] = []

    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, "backoff", lambda: restarts.append(time.monotonic()))
        await supervisor.start(make_part("failing", "exit 3", "backoff"))
        await until(lambda: len(restarts) == 3)
        await supervisor.stop([["failing"]], limit_seconds=5)

    asyncio.run(scenario())

    # After the first pause of 0.2 s, each is twice the one before, and what a busy machine takes besides.
    first, second = restarts[1] - restarts[0], restarts[2] - restarts[1]
    assert first >= 0.39 and second >= 0.79


def test_children_of_a_dead_part_are_killed_before_it_is_restarted(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, "group")
        await supervisor.start(make_part("parent", "sleep 61 & wait", "group"))
        parent = supervisor.find_pid("parent")
        assert parent is not None
        await until(lambda: len(list_marked(MARK, OWN + "group")) == 2)
        (child,) = [identity for identity in list_marked(MARK, OWN + "group") if identity.pid != parent]
        os.kill(parent, signal.SIGKILL)
        await until(lambda: supervisor.find_pid("parent") != parent)
        assert not is_alive(child)
        await supervisor.stop([["parent"]], limit_seconds=5)

    asyncio.run(scenario())
    assert list_marked(MARK, OWN + "group") == []


def test_parts_stop_in_the_order_of_the_stages(tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = 'trap \'echo {0} >> "{1}"; exit 0\' TERM; echo {0} up >> "{1}"; while :; do sleep 0.05; done'

    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, "order")
        for name in ("database", "front"):
            await supervisor.start(make_part(name, script.format(name, order), "order"))
        await until(lambda: order.exists() and order.read_text().count("up") == 2)
        await supervisor.stop([["front"], ["database"]], limit_seconds=5)

    asyncio.run(scenario())
    assert order.read_text().splitlines()[-2:] == ["front", "database"]


def test_a_part_that_does_not_stop_is_killed_in_time(tmp_path: Path) -> None:
    trapped = tmp_path / "trapped"

    async def scenario() -> float:
        supervisor = make_supervisor(tmp_path, "stubborn")
        script = f"trap '' TERM; touch '{trapped}'; while :; do sleep 0.05; done"
        await supervisor.start(make_part("stubborn", script, "stubborn", 0.5))
        await until(trapped.exists)
        began = time.monotonic()
        await supervisor.stop([["stubborn"]], limit_seconds=60)
        return time.monotonic() - began

    assert 0.4 < asyncio.run(scenario()) < 20
    assert list_marked(MARK, OWN + "stubborn") == []


def test_hurry_kills_parts_that_are_still_stopping(tmp_path: Path) -> None:
    trapped = tmp_path / "trapped"

    async def scenario() -> float:
        supervisor = make_supervisor(tmp_path, "hurry")
        script = f"trap '' TERM; touch '{trapped}'; while :; do sleep 0.05; done"
        await supervisor.start(make_part("slow", script, "hurry", 30))
        await until(trapped.exists)
        asyncio.get_running_loop().call_later(0.2, supervisor.hurry)
        began = time.monotonic()
        await supervisor.stop([["slow"]], limit_seconds=60)
        return time.monotonic() - began

    assert asyncio.run(scenario()) < 20


def test_stop_ends_processes_in_sessions_of_their_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, "escape")
        await supervisor.start(make_part("parent", "setsid sleep 62 & wait", "escape"))
        await until(lambda: len(list_marked(MARK, OWN + "escape")) == 2)
        await supervisor.stop([["parent"]], limit_seconds=5)

    asyncio.run(scenario())
    assert list_marked(MARK, OWN + "escape") == []


def test_a_later_supervisor_ends_recorded_and_marked_processes(tmp_path: Path) -> None:
    script = "setsid sleep 63 & exec sleep 64"
    part = spawn(make_part("one", script, "leftover").command, subprocess.DEVNULL)
    ProcessRecord(tmp_path / "processes.json", OWN + "leftover").add("one", part.pid)
    assert wait_until(lambda: len(list_marked(MARK, OWN + "leftover")) == 2, limit_seconds=60)
    left = list_marked(MARK, OWN + "leftover")

    ended = ProcessRecord(tmp_path / "processes.json", OWN + "leftover").end_earlier()

    assert ended == 2
    assert wait_until_gone(left, limit_seconds=10)
    part.wait(PATIENCE_SECONDS)


def test_recorded_pids_of_other_processes_are_left_alone(tmp_path: Path) -> None:
    us = identify(os.getpid())
    assert us is not None
    record = tmp_path / "processes.json"
    record.write_text(f'{{"running": {{"api": {{"pid": {us.pid}, "started": "{us.started}0"}}}}}}')

    assert ProcessRecord(record, "nobody's").end_earlier() == 0


def test_stop_leaves_other_children_of_this_process_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])

    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, "bystander")
        await supervisor.start(make_part("one", "sleep 61", "bystander"))
        await supervisor.stop([["one"]], limit_seconds=5)

    try:
        asyncio.run(scenario())
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(PATIENCE_SECONDS)
