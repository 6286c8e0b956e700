"""The commands that check the guarantees: `verify` on what is stored, `chaos` under faults."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.options import AsJson, StackDir, read_settings_of

app = typer.Typer()


@app.command()
def verify(
    since: Annotated[
        str | None,
        typer.Option(help="Check only tasks submitted since a time (2026-11-24T10:00:00Z) or within an age (3h, 7d)."),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every object and compare its SHA-256 with the one in its file's row.")
    ] = False,
    as_json: AsJson = False,
    data_dir: StackDir = None,
) -> None:
    """Check that everything stored is consistent. Exit with 1 and list what is wrong if it is not."""
    from cli.verify import run_verify

    raise typer.Exit(run_verify(read_settings_of(data_dir), since, deep=deep, as_json=as_json))


@app.command()
def chaos(
    seed: Annotated[
        int,
        typer.Option(help="The number from which the schedule of faults is made: the same number, the same schedule."),
    ] = 1,
    seconds: Annotated[float, typer.Option(min=5, help="How long tasks are submitted and faults are caused.")] = 60,
    rate: Annotated[float, typer.Option(min=0.1, help="How many tasks are submitted in a second.")] = 10,
    faults: Annotated[str | None, typer.Option(help="Which faults, separated by commas. Default: all.")] = None,
    lease: Annotated[float, typer.Option(min=1, help="The lease of attempts in the stack, in seconds.")] = 5,
) -> None:
    """Cause faults in a local stack that does real work, then check it. Exit with 1 if a guarantee is broken."""
    from cli.chaos.run import ChaosOptions, parse_faults, run_chaos

    raise typer.Exit(run_chaos(ChaosOptions(seed, seconds, rate, lease, parse_faults(faults))))
