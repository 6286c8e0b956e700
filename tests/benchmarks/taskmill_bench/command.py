"""Runs `./taskmill bench`, once the command line is parsed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from taskmill_bench.parts import PARTS
from taskmill_bench.processes import BenchFailed
from taskmill_bench.report import print_result, write_into
from taskmill_bench.run import SYSTEMS, Options, run_bench, write_json

ALL = "all"


def run_command(part: str, options: Options, json_path: Path | None) -> int:
    """Run parts, named with commas between them, or all. Print and store the result.

    Returns 2 for an unknown name, and 1 if something could not be measured.
    """
    names = [name for name, each in PARTS.items() if not each.by_hand] if part == ALL else part.split(",")
    if wrong := [name for name in names if name not in PARTS]:
        print(f"taskmill: there is no part {wrong[0]}; there are {', '.join(PARTS)} and {ALL}", file=sys.stderr)
        return 2
    if unknown := set(options.systems) - set(SYSTEMS):
        print(f"taskmill: there is no {', '.join(unknown)}; there are {', '.join(SYSTEMS)}", file=sys.stderr)
        return 2
    try:
        result = run_bench([PARTS[name] for name in names], options, _say)
    except BenchFailed as failure:
        print(f"taskmill: {failure}", file=sys.stderr)
        return 1
    if json_path is not None:
        write_json(result, json_path)
    print_result(result)
    return 1 if any(outcome["failures"] for outcome in result["parts"].values()) else 0


def show(path: Path, document: Path | None) -> int:
    """Print the result of an earlier run, or write it into a document."""
    result = json.loads(path.read_text(encoding="utf-8"))
    if document is None:
        print_result(result)
        return 0
    try:
        write_into(result, document)
    except BenchFailed as failure:
        print(f"taskmill: {failure}", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
