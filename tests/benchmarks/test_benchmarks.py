"""Parts of the benchmark run once, with as little work as possible. The figures are not tested.

A start of a system takes ten seconds of processor time. So in CI five parts run, which use each kind of load and of client,
elsewhere three, and all with `TEST_EVERY_BENCH=1`: set it after a change of the benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunTaskmill

ROOT = Path(__file__).resolve().parents[2]
MOMENT = ["--rounds", "1", "--seconds", "0.3", "--tasks", "50", "--latency-tasks", "3", "--waiters", "20"]
MOMENT += ["--rows", "1000", "--worker-processes", "1", "--processes", "1"]
LIMIT_SECONDS = 200

Result = dict[str, Any]
"""What `--json` writes."""

LOAD = {"per_second", "p50_ms", "p99_ms", "cpu_us", "load_cpu_us"}
TASKS = {"per_second", "submitted_per_second", "cpu_us", "broker_commands", "write_transactions", "wal_bytes"}
RATES = {"submit_per_second", "poll_per_second", "list_per_second", "drain_per_second"}
EXPECTED: dict[str, dict[str, set[str]]] = {
    "submit": {"taskmill": LOAD, "naive": LOAD},
    "poll": {"taskmill": LOAD, "taskmill_304": LOAD},
    "drain": {"taskmill": TASKS, "taskmill_batch": TASKS, "naive": TASKS},
    "latency": {"taskmill": {"p50_ms", "p99_ms"}},
    "fairness": {"taskmill": {"wait_p50_ms", "wait_max_ms", "slot_is_free_every_ms", "backlog_after"}},
    "schedules": {"taskmill": {"last_submitted_ms", "last_finished_ms"}},
    "waiters": {"taskmill": {"waiters", "api_mib", "api_core_percent"}},
    "streams": {
        "taskmill": {
            f"{stream}_to_{listeners}_{share}_ms"
            for stream in ("task_events", "events")
            for listeners in (1, 20)
            for share in ("p50", "p99")
        }
    },
    "webhooks": {"taskmill": {"per_second", "cpu_us", "write_transactions", "webhooks"}},
    "size": {"taskmill": RATES, "taskmill_full": RATES},
    "workers": {"taskmill": {"linear_share_1", "per_second_1"}},
    "files": {"taskmill": {"pictures_per_second", "upload_mib_per_second"}},
    "reports": {"taskmill": {"csv_rows_per_second", "xlsx_rows_per_second"}},
    "email": {"taskmill": {"per_second", "cpu_us"}},
}
IN_CI = bool(os.environ.get("CI"))
ALWAYS = ("submit", "drain", "reports")
EVERY = os.environ.get("TEST_EVERY_BENCH") == "1"
RUN = tuple(EXPECTED) if EVERY else (*ALWAYS, "streams", "webhooks") if IN_CI else ALWAYS
PART_SYSTEMS = {part: ",".join(name for name in ("taskmill", "naive") if name in EXPECTED[part]) for part in RUN}
RUNS = tuple(
    same[first : first + 3]
    for systems in ("taskmill,naive", "taskmill")
    for same in [tuple(part for part in RUN if PART_SYSTEMS[part] == systems)]
    for first in range(0, len(same), 3)
)
"""The parts that one run measures: few enough to end within the time limit of a test on a busy machine."""


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", "bench", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )


@pytest.fixture(scope="module")
def find_kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns the file with the result of the run that measures a part."""

    @cache
    def run(parts: tuple[str, ...]) -> Path:
        path = tmp_path_factory.mktemp("bench") / "parts.json"
        outcome = bench(",".join(parts), *MOMENT, "--systems", PART_SYSTEMS[parts[0]], "--json", path)
        assert outcome.returncode == 0, outcome.stderr + outcome.stdout
        return path

    return lambda part: next(run(parts) for parts in RUNS if part in parts)


@pytest.fixture
def kept(find_kept: Callable[[str], Path]) -> Path:
    """The file with the result of the run that measures `submit`."""
    return find_kept("submit")


@pytest.fixture
def result(kept: Path) -> Result:
    """The result of that run."""
    return _read_result(kept)


def _read_result(kept: Path) -> Result:
    return dict(json.loads(kept.read_text(encoding="utf-8")))


@pytest.mark.parametrize("part", RUN)
def test_each_part_measures_each_of_its_systems(part: str, find_kept: Callable[[str], Path]) -> None:
    result = _read_result(find_kept(part))
    (measured,) = result["parts"][part]["rounds"]

    assert result["parts"][part]["failures"] == []
    assert set(measured) == set(EXPECTED[part])
    for system, measures in EXPECTED[part].items():
        assert measures <= set(measured[system])
        assert all(value >= 0 for value in measured[system].values())


def test_processor_time_is_counted_by_part_and_adds_up(result: Result) -> None:
    (measured,) = result["parts"]["submit"]["rounds"]
    ours = measured["taskmill"]

    parts = {name.partition(".")[2]: value for name, value in ours.items() if name.startswith("cpu_us.")}

    assert set(parts) == {"api", "relay", "broker", "postgres"}
    assert sum(parts.values()) == pytest.approx(ours["cpu_us"])


def test_a_result_names_the_machine_and_the_versions_but_no_path(kept: Path, result: Result) -> None:
    assert result["machine"]["cores"] >= 1
    assert {"python", "postgres", "broker", "celery"} <= set(result["versions"])
    assert str(ROOT) not in kept.read_text(encoding="utf-8")


def test_a_result_is_shown_again_and_put_between_the_marks_of_a_document(
    kept: Path, taskmill: RunTaskmill, tmp_path: Path
) -> None:
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n", encoding="utf-8")

    shown = taskmill("bench", "--show", str(kept))
    put = taskmill("bench", "--show", str(kept), "--into", str(document))

    assert shown.returncode == put.returncode == 0, shown.stderr + put.stderr
    assert "submit, against naive" in shown.stdout
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- bench: begin -->\n") and text.endswith("<!-- bench: end -->\nafter\n")
    assert "old" not in text
    assert "| taskmill |" in text


def test_the_peers_that_need_no_further_package_are_drained(tmp_path: Path) -> None:
    outcome = bench("drain", *MOMENT, "--systems", "naive_pg,celery", "--json", tmp_path / "drain.json")

    assert outcome.returncode == 0, outcome.stderr
    (measured,) = json.loads((tmp_path / "drain.json").read_text(encoding="utf-8"))["parts"]["drain"]["rounds"]
    assert set(measured) == {"naive_pg", "celery"}
    assert measured["naive_pg"]["write_transactions"] >= 3


@pytest.mark.skipif(not EVERY, reason="takes ten seconds, and runs with TEST_EVERY_BENCH=1")
def test_a_steady_load_compares_an_early_moment_with_the_end(tmp_path: Path) -> None:
    moment = ["--rounds", "1", "--seconds", "3", "--worker-processes", "1"]

    outcome = bench("steady", *moment, "--json", tmp_path / "steady.json")

    assert outcome.returncode == 0, outcome.stderr
    (measured,) = json.loads((tmp_path / "steady.json").read_text(encoding="utf-8"))["parts"]["steady"]["rounds"]
    assert {"api_mib_early", "api_mib_late", "worker_mib_late", "tables_mib_late"} <= set(measured["taskmill"])


def test_an_unknown_part_or_system_is_refused_with_a_message(taskmill: RunTaskmill) -> None:
    part, system = taskmill("bench", "submit,speed"), taskmill("bench", "submit", "--systems", "ours")

    assert part.returncode == system.returncode == 2
    assert "there is no part speed" in part.stderr
    assert "there is no ours" in system.stderr
