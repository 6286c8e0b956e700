"""The commands of the local stack: `up`, `stop`, `reset`, `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import DataDir

app = typer.Typer()


@app.command()
def up(
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="The address that the API listens on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port that the API listens on; 0 for any free one.")
    ] = 8000,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Also write the addresses and the admin's key to this JSON file when the stack is ready."),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart the API and the workers when a source file changes.")
    ] = False,
) -> None:
    """Run the local stack: every part and every server that it needs, on this machine, until Ctrl-C."""
    from cli.local_stack.data_directory import default_data_directory
    from cli.local_stack.up import UpOptions, run_up

    raise typer.Exit(run_up(UpOptions(data_dir or default_data_directory(), host, port, ready_file, reload)))


@app.command()
def stop(data_dir: DataDir = None) -> None:
    """Stop the local stack that runs on a data directory. Its data is kept."""
    from cli.local_stack.data_directory import default_data_directory
    from cli.local_stack.stop_and_reset import stop_stack

    directory = data_dir or default_data_directory()
    print(f"Stopped the Taskmill on {directory}." if stop_stack(directory) else f"No Taskmill runs on {directory}.")


@app.command()
def reset(
    data_dir: DataDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete everything that a stopped local stack has stored: tasks, files, keys and mail."""
    from cli.local_stack.data_directory import default_data_directory
    from cli.local_stack.stop_and_reset import reset_data_directory

    directory = data_dir or default_data_directory()
    was_reset = reset_data_directory(directory, lambda question: yes or typer.confirm(question))
    print(f"Deleted the data in {directory}." if was_reset else f"Deleted nothing in {directory}.")


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the stack and its data; it runs until Ctrl-C.")] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Use this data directory and keep its data. By default a temporary one is used and deleted."),
    ] = None,
) -> None:
    """Start a local stack, submit real files, a report and an email, and check every result."""
    from cli.demo.run import run_demo

    raise typer.Exit(run_demo(data_dir, keep=keep))
