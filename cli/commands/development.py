"""The commands for work on Taskmill and on kinds: `test`, `new-kind`, `check`, `bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import split_commas

app = typer.Typer()

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASS_ON)
def test(context: typer.Context) -> None:
    """Run the tests. `--fast` runs those without servers; all other arguments go to pytest."""
    from cli.development.run_tests import run_tests

    raise typer.Exit(run_tests(context.args))


@app.command("new-kind")
def new_kind(
    name: Annotated[
        str, typer.Argument(metavar="FAMILY.NAME", help="The name of the kind, such as texts.count_words.")
    ],
    package: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write to a package of its own in this directory, which is made if it is missing. Default: this checkout.",
        ),
    ] = None,
) -> None:
    """Write the contract, the handler and the test of a new kind, as a start to change. See docs/kinds.md."""
    from cli.development.new_kind import add_kind, add_kind_to_package

    made = add_kind(name) if package is None else add_kind_to_package(name, package)
    for path in made.files:
        print(path)
    print(f"Run its test with: ./taskmill test {made.test.absolute()}", file=sys.stderr)


@app.command()
def check() -> None:
    """Run formatters, linters, type checks, import rules and the validator of the deployment files."""
    from cli.development.check import run_checks

    raise typer.Exit(run_checks())


@app.command()
def bench(
    part: Annotated[
        str,
        typer.Argument(
            help="What to measure, separated by commas: submit, poll, drain, latency, fairness, schedules, waiters, "
            "streams, webhooks, size, workers, files, reports, email, steady, or all."
        ),
    ] = "all",
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each system is measured. Default: 3.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="How long each load lasts, in seconds. Default: 4.")
    ] = None,
    systems: Annotated[
        str | None, typer.Option(help="Which systems are measured, separated by commas. Default: all.")
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="How many tasks are drained. Default: 10,000.")] = None,
    latency_tasks: Annotated[int | None, typer.Option(min=1, help="How many tasks are timed. Default: 100.")] = None,
    waiters: Annotated[
        int | None, typer.Option(min=1, help="How many callers wait, or listen (1,000 at most). Default: 1,000.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="How many done tasks are in the table. Default: 100,000.")
    ] = None,
    worker_processes: Annotated[
        int | None, typer.Option(min=1, help="How many worker processes each system has. Default: 2.")
    ] = None,
    processes: Annotated[
        str | None, typer.Option(help="The numbers of processes that `workers` measures. Default: 1,2,4,8,16.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything that was measured to this file.")
    ] = None,
    show: Annotated[Path | None, typer.Option(help="Measure nothing; show the file of an earlier run.")] = None,
    into: Annotated[
        Path | None, typer.Option(help="With --show: write the result between the marks in this document.")
    ] = None,
) -> None:
    """Measure the speed of Taskmill beside other systems."""
    from cli.development.bench import BenchOptions, run_bench, show_result

    if show is not None:
        raise typer.Exit(show_result(show, into))
    options = BenchOptions(
        rounds=rounds,
        seconds=seconds,
        systems=tuple(split_commas(systems)) if systems is not None else None,
        tasks=tasks,
        latency_tasks=latency_tasks,
        waiters=waiters,
        rows=rows,
        worker_processes=worker_processes,
        processes=tuple(map(int, split_commas(processes))) if processes is not None else None,
    )
    raise typer.Exit(run_bench(part, options, json_file))
