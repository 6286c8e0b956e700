"""A run of the benchmark. Each part has rounds, and each round measures every system once."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from taskmill_bench import machine, peer_environment
from taskmill_bench.peer_systems import BullMq, Celery, Dramatiq, Naive, NaivePg, Procrastinate
from taskmill_bench.processes import ROOT, BenchFailed
from taskmill_bench.servers import Servers, run_servers
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill, TaskmillBatch

SYSTEMS: dict[str, type[System]] = {
    system.name: system for system in (Taskmill, TaskmillBatch, Naive, NaivePg, Celery, Procrastinate, Dramatiq, BullMq)
}
IN_PEER_ENVIRONMENT = frozenset({Procrastinate.name, Dramatiq.name})

Measures = dict[str, float]
"""The figures of one system in one round, by name. The names end with their units."""


@dataclass(frozen=True)
class Options:
    """The size of a run. Each part uses the options that it needs."""

    rounds: int = 3
    seconds: float = 4.0
    systems: tuple[str, ...] = ()
    tasks: int = 10_000
    latency_tasks: int = 100
    waiters: int = 1000
    rows: int = 100_000
    worker_processes: int = 2
    processes: tuple[int, ...] = (1, 2, 4, 8, 16)


@dataclass
class Part:
    """A part of the benchmark. `measure` is called once for each system and round; `systems` are those that it can measure."""

    name: str
    title: str
    systems: tuple[str, ...]
    measure: Callable[[System, Options], Measures]
    variants: dict[str, type[System]] = field(default_factory=dict)
    """Systems that only this part has, by name: Taskmill in another state."""
    by_hand: bool = False
    """Whether the part takes too long to belong to `all`."""

    def make(self, name: str, servers: Servers, folder: Path) -> System:
        return (self.variants.get(name) or SYSTEMS[name])(servers, folder)

    def asked_as(self, name: str) -> str:
        """Return the name that selects a system. Taskmill in another state is selected with Taskmill."""
        return Taskmill.name if name in self.variants or name == TaskmillBatch.name else name


@dataclass
class Outcome:
    """The result of a part: the figures of each system in each round, and what failed."""

    rounds: list[dict[str, Measures]]
    failures: list[str]


def run_bench(parts: Iterable[Part], options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Run parts and return the result as JSON values. If a system fails, this is printed, and the others still run."""
    # Whatever was started is ended by `finally`, also when this process is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.time()
    load_before = os.getloadavg()
    chosen = [(part, choose_systems(part, options, say)) for part in parts]
    prepare({name for _, names in chosen for name in names})
    outcomes: dict[str, Outcome] = {}
    with run_servers() as servers:
        versions = servers.versions()
        for part, names in chosen:
            outcomes[part.name] = run_part(part, names, servers, options, say)
    return {
        "machine": machine.describe(),
        "versions": {**machine.list_versions(), **versions},
        "options": asdict(options),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "seconds": round(time.time() - began, 1),
        "parts": {name: asdict(outcome) for name, outcome in outcomes.items()},
        "systems": {name: system.title for name, system in SYSTEMS.items()},
    }


def choose_systems(part: Part, options: Options, say: Callable[[str], None]) -> tuple[str, ...]:
    """Return the systems of a part that are selected and can run here."""
    wanted = [name for name in part.systems if not options.systems or part.asked_as(name) in options.systems]
    if BullMq.name in wanted and (reason := peer_environment.find_why_not_node()):
        say(f"{part.name}: bullmq is left out: {reason}")
        wanted.remove(BullMq.name)
    return tuple(wanted)


def prepare(names: set[str]) -> None:
    """Install the packages that the systems need. Raises `BenchFailed`."""
    if names & IN_PEER_ENVIRONMENT:
        peer_environment.prepare_python()
    if BullMq.name in names:
        peer_environment.prepare_node()


def run_part(
    part: Part, names: tuple[str, ...], servers: Servers, options: Options, say: Callable[[str], None]
) -> Outcome:
    """Run a part."""
    outcome = Outcome([], [])
    for turn in range(options.rounds):
        measured: dict[str, Measures] = {}
        for name in names:
            began = time.monotonic()
            system = part.make(name, servers, servers.folder)
            system.worker_processes = options.worker_processes
            try:
                measured[name] = part.measure(system, options)
            except Exception as failure:
                # One system that fails must not take with it what was measured of the others.
                reason = failure if isinstance(failure, BenchFailed) else f"{type(failure).__name__}: {failure}"
                failure_text = remove_paths(f"{name}: {reason}\n{system.read_log_end()}".strip(), servers.folder)
                outcome.failures.append(failure_text)
                say(f"{part.name} {turn + 1}/{options.rounds} {failure_text}")
                continue
            finally:
                system.stop()
            figures = ", ".join(f"{key} {value:,.4g}" for key, value in measured[name].items() if "." not in key)
            took = time.monotonic() - began
            say(
                f"{part.name} {turn + 1}/{options.rounds} {name}: {figures} "
                f"({took:.0f} s, load average {os.getloadavg()[0]:.1f})"
            )
        outcome.rounds.append(measured)
    return outcome


def remove_paths(text: str, folder: Path) -> str:
    """Remove paths and addresses of this machine from a text, as the result may be published."""
    return text.replace(str(ROOT), ".").replace(str(folder), "...")


def write_json(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
