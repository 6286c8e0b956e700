"""The targets of Taskmill, as ratios within one run, and whether they were reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from taskmill_bench.measuring import median


@dataclass(frozen=True)
class Target:
    """A target: a figure of Taskmill, divided by that of another system in the same round, or as it is.

    A ratio is ours by theirs, or theirs by ours when `inverse`; `more_is_better` says on which side of a bound to be.
    """

    part: str
    title: str
    measure: str
    at_least: float
    aim: float
    system: str = "taskmill"
    against: str | None = None
    against_measure: str | None = None
    more_is_better: bool = True
    inverse: bool = False

    def reached_in(self, rounds: list[dict[str, dict[str, float]]]) -> float | None:
        """Return the median of the rounds, or None if it was not measured."""
        return median(self._value(measured) for measured in rounds)

    def meets(self, value: float, bound: float) -> bool:
        return value >= bound if self.more_is_better else value <= bound

    def _value(self, measured: dict[str, dict[str, float]]) -> float | None:
        ours = measured.get(self.system, {}).get(self.measure)
        if ours is None or self.against is None:
            return ours
        theirs = measured.get(self.against, {}).get(self.against_measure or self.measure)
        if not theirs or not ours:
            return None
        return theirs / ours if self.inverse else ours / theirs


def _faster(part: str, title: str, against: str, at_least: float, aim: float, **more: Any) -> Target:
    return Target(part, f"{title}, against {against}", "per_second", at_least, aim, against=against, **more)


TARGETS: tuple[Target, ...] = (
    _faster("submit", "submit", "naive", 5, 8),
    _faster("submit", "submit", "naive_pg", 14, 22),
    Target("submit", "CPU of a submit, against naive", "cpu_us", 0.2, 0.12, against="naive", more_is_better=False),
    _faster("poll", "poll of a done task", "naive", 3.3, 5),
    _faster("poll", "poll of a done task", "naive_pg", 11, 16),
    _faster("poll", "a poll answered 304", "naive", 5, 8, system="taskmill_304"),
    _faster("drain", "drain, submitted one by one", "naive", 3.5, 7),
    _faster("drain", "drain, submitted one by one", "naive_pg", 10, 20),
    _faster("drain", "drain, submitted one by one", "celery", 2.5, 5),
    _faster("drain", "drain, submitted by /tasks/batch", "dramatiq", 1, 1.5, system="taskmill_batch"),
    Target("latency", "idle latency p50, against naive", "p50_ms", 1.3, 0.9, against="naive", more_is_better=False),
    Target("drain", "broker commands for each task", "broker_commands", 1, 0.3, more_is_better=False),
    Target("drain", "Postgres write transactions for each task", "write_transactions", 0.7, 0.3, more_is_better=False),
    Target("waiters", "MiB of an API process with 5,000 who wait", "api_mib", 200, 130, more_is_better=False),
    Target("waiters", "percent of a core while they wait", "api_core_percent", 2, 2, more_is_better=False),
    *(
        Target(
            "size",
            f"time of a {what} on 10,000,000 finished tasks, against none",
            f"{what}_per_second",
            1.2,
            1.05,
            system="taskmill_full",
            against="taskmill",
            more_is_better=False,
            inverse=True,
        )
        for what in ("submit", "poll", "list", "drain")
    ),
    *(
        Target("workers", f"share of linear, {count} worker processes", f"linear_share_{count}", 0.9, 0.98)
        for count in (1, 2, 4, 8, 16)
    ),
)
