"""`taskmill bench`: runs the benchmarks in `tests/benchmarks`."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BENCHMARKS = Path(__file__).resolve().parents[2] / "tests" / "benchmarks"


@dataclass(frozen=True)
class BenchOptions:
    """The options of the command line. None means the default of the benchmark."""

    rounds: int | None = None
    seconds: float | None = None
    systems: tuple[str, ...] | None = None
    tasks: int | None = None
    latency_tasks: int | None = None
    waiters: int | None = None
    rows: int | None = None
    worker_processes: int | None = None
    processes: tuple[int, ...] | None = None


def run_bench(part: str, options: BenchOptions, json_path: Path | None) -> int:
    """Run one benchmark, or all, and return the exit code."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    code: int = _load("command").run_command(part, _load("run").Options(**given), json_path)
    return code


def show_result(path: Path, document: Path | None) -> int:
    """Print the result of an earlier run, or write it between the marks in a document, and return the exit code."""
    code: int = _load("command").show(path, document)
    return code


def _load(module: str) -> Any:
    # `tests` is no package, so the folder with the package of the benchmarks is added to the path.
    if str(_BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(_BENCHMARKS))
    return importlib.import_module(f"taskmill_bench.{module}")
