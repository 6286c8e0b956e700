"""The parts of the benchmark, in the order in which `all` runs them."""

from __future__ import annotations

from taskmill_bench.fairness_part import FAIRNESS
from taskmill_bench.family_parts import EMAIL, FILES, REPORTS
from taskmill_bench.http_parts import POLL, SUBMIT
from taskmill_bench.run import Part
from taskmill_bench.schedules_part import SCHEDULES_PART
from taskmill_bench.size_part import SIZE
from taskmill_bench.steady_part import STEADY
from taskmill_bench.streams_part import STREAMS
from taskmill_bench.task_parts import DRAIN, LATENCY, WORKERS
from taskmill_bench.waiters_part import WAITERS
from taskmill_bench.webhooks_part import WEBHOOKS

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        SUBMIT,
        POLL,
        DRAIN,
        LATENCY,
        FAIRNESS,
        SCHEDULES_PART,
        WAITERS,
        STREAMS,
        WEBHOOKS,
        SIZE,
        WORKERS,
        FILES,
        REPORTS,
        EMAIL,
        STEADY,
    )
}
