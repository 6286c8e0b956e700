"""Writes the result of a run: on a terminal, or as Markdown between two marks in a document."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskmill_bench.measuring import median
from taskmill_bench.processes import BenchFailed
from taskmill_bench.targets import TARGETS

REFERENCE = "naive"
BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"
UNITS = {"per_second": "/s", "cpu_us": "CPU µs", "load_cpu_us": "load's CPU µs"}
WIDTH_OF_A_FILE = 160
RATIOS = ("per_second", "p50_ms", "cpu_us")


@dataclass
class Grid:
    """A table whose first column has names and whose other columns have figures."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def list_grids(result: dict[str, Any]) -> list[Grid]:
    """Return a table for each part, and one that compares the targets with what was reached."""
    grids = [make_part_grid(name, part["rounds"]) for name, part in result["parts"].items() if any(part["rounds"])]
    targets = make_target_grid(result)
    return [*grids, targets] if targets.rows else grids


def make_part_grid(part: str, rounds: list[dict[str, dict[str, float]]]) -> Grid:
    """Return the medians of the rounds: a row for each system, or for each measure of a single system."""
    systems = list(dict.fromkeys(itertools.chain.from_iterable(rounds)))
    measures = list(
        dict.fromkeys(
            measure for measured in rounds for system in measured.values() for measure in system if "." not in measure
        )
    )
    if REFERENCE not in systems:
        rows = [[_title(measure), *(_figure(_median(rounds, s, measure)) for s in systems)] for measure in measures]
        return Grid(part, ["", *systems], rows)
    columns = [""]
    for measure in measures:
        columns.append(_title(measure))
        if measure in RATIOS:
            columns.append(f"x {REFERENCE}")
    return Grid(part, columns, [_make_row(rounds, system, measures) for system in systems])


def _make_row(rounds: list[dict[str, dict[str, float]]], system: str, measures: list[str]) -> list[str]:
    row = [system]
    for measure in measures:
        row.append(_figure(_median(rounds, system, measure)))
        if measure in RATIOS:
            ratios = (_ratio(measured, system, measure) for measured in rounds)
            row.append(_figure(median(ratios)))
    return row


def _ratio(measured: dict[str, dict[str, float]], system: str, measure: str) -> float | None:
    ours, theirs = (measured.get(name, {}).get(measure) for name in (system, REFERENCE))
    return ours / theirs if ours and theirs else None


def _median(rounds: list[dict[str, dict[str, float]]], system: str, measure: str) -> float | None:
    return median(measured.get(system, {}).get(measure) for measured in rounds)


def make_target_grid(result: dict[str, Any]) -> Grid:
    """Return each target that was measured, and whether it was reached."""
    rows = []
    for target in TARGETS:
        part = result["parts"].get(target.part)
        value = target.reached_in(part["rounds"]) if part else None
        if value is None:
            continue
        sign = "" if target.more_is_better else "at most "
        verdict = "not reached"
        if target.meets(value, target.aim):
            verdict = "aim reached"
        elif target.meets(value, target.at_least):
            verdict = "reached"
        bounds = [f"{sign}{bound:g}" for bound in (target.at_least, target.aim)]
        rows.append([_describe(target.title, target.part, result), *bounds, _figure(value), verdict])
    return Grid("to reach", ["", "at least", "aim", "here", ""], rows)


def _describe(title: str, part: str, result: dict[str, Any]) -> str:
    """Return a note if the run was smaller than the target requires."""
    options = result["options"]
    if part == "waiters" and options["waiters"] != 5000:
        return f"{title} (here {options['waiters']:,})"
    if part == "size" and options["rows"] != 10_000_000:
        return f"{title} (here {options['rows']:,})"
    return title


def describe_run(result: dict[str, Any]) -> list[str]:
    """Return the machine, the software and the size of the run."""
    machine, versions, options = result["machine"], result["versions"], result["options"]
    load = result["load_average"]
    failures = [f"failed: {failure}" for part in result["parts"].values() for failure in part["failures"]]
    return [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']} "
        f"{machine['architecture']}; load average {load['before'][0]:.1f} before and {load['after'][0]:.1f} after",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"medians of {options['rounds']} round(s), {options['seconds']:g} s each where time bounds, {options['tasks']:,} "
        f"tasks to drain, {options['waiters']:,} who wait, {options['rows']:,} finished rows; "
        f"{options['worker_processes']} worker processes of each system",
        *failures,
    ]


def print_result(result: dict[str, Any]) -> None:
    """Print the result on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_A_FILE
    for grid in list_grids(result):
        table = Table(title=grid.title, title_justify="left")
        for number, column in enumerate(grid.columns):
            table.add_column(column, justify="right" if number > 0 else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for line in describe_run(result):
        console.print(line, highlight=False)


def as_markdown(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [f"{line[0].upper()}{line[1:]}.\n" for line in describe_run(result)]
    lines += [*(f"- `{name}`: {title}" for name, title in result["systems"].items()), ""]
    for grid in list_grids(result):
        lines.append(f"### {grid.title}\n")
        lines.append("| " + " | ".join(grid.columns) + " |")
        lines.append("|---|" + "--:|" * (len(grid.columns) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in grid.rows]
        lines.append("")
    return "\n".join(lines)


def write_into(result: dict[str, Any], document: Path) -> None:
    """Write the result between the marks in a document. Raises `BenchFailed` if it has no marks."""
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchFailed(f"{document.name} has no place for it, between {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n{as_markdown(result)}\n{END}{after}", encoding="utf-8")


def _title(measure: str) -> str:
    return UNITS.get(measure) or measure.replace("_per_second", " /s").replace("_cpu_us", " CPU µs").replace("_", " ")


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
