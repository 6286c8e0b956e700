"""The commands that run one part of the platform, and `migrate`."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from cli.commands.options import split_commas

app = typer.Typer()


@app.command()
def api(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="The number of processes.")] = 1,
) -> None:
    """Run the API."""
    from api.serve import serve
    from shared.contracts.catalog import list_kinds
    from shared.settings import read_settings

    # A contract that cannot be loaded stops every part at its start, with one line.
    list_kinds()
    serve(read_settings(), host, port, workers)


@app.command()
def relay() -> None:
    """Run a relay: publish due tasks to the broker, and sweep tasks whose lease was lost. Any number may run."""
    from shared.contracts.catalog import list_kinds
    from shared.settings import read_settings
    from workers.relay.relay import run_relay

    list_kinds()
    run_relay(read_settings())


@app.command()
def worker(
    queues: Annotated[
        str, typer.Option(help="The queues to take tasks from, separated by commas, such as files,reports.")
    ],
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="How many attempts run at a time. Default: TASKMILL_WORKER_CONCURRENCY.")
    ] = None,
) -> None:
    """Run a worker for some queues."""
    from shared.settings import read_settings
    from workers.engine.handler_catalog import load_handlers
    from workers.engine.worker_process import run_worker

    load_handlers()
    run_worker(read_settings(), split_commas(queues), concurrency)


@app.command()
def beat() -> None:
    """Run beat: submit the tasks of schedules when they are due. Any number may run."""
    from shared.contracts.catalog import list_kinds
    from shared.settings import read_settings
    from workers.beat_scheduler import run_beat

    list_kinds()
    run_beat(read_settings())


@app.command()
def flower() -> None:
    """Run Flower, a page on which operators watch the workers."""
    from shared.settings import read_settings
    from workers.flower.serve import run_flower

    run_flower(read_settings())


@app.command()
def migrate() -> None:
    """Create or upgrade the tables of the database, and print what was done. It may run repeatedly, and several times at once."""
    from shared.database.schema_migrations import migrate as migrate_schema
    from shared.settings import read_settings

    print(migrate_schema(read_settings()).describe(), flush=True)
    if os.environ.get("HONCHO_PROCESS_NAME"):
        # honcho starts the Procfile's `release` beside the others, and ends all of them when one has ended.
        print("Waiting until honcho ends the other processes.", flush=True)
        signal.pause()
