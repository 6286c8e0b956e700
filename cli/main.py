"""The `taskmill` command.

The commands are in `cli/commands/`, by subject. Each imports what it needs when it is called, so that all of them start fast.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.commands import development, keys, limits, local, parts, secrets, users, verification
from shared.errors import TaskmillError

app = typer.Typer(
    name="taskmill",
    help="Taskmill: a self-hosted platform for background work. `taskmill up` runs all of it on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for subject in (local, parts, verification, development):
    app.add_typer(subject.app)
app.add_typer(keys.app, name="keys")
app.add_typer(users.app, name="users")
app.add_typer(secrets.app, name="secrets")
app.add_typer(limits.app, name="limits")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from shared.version import VERSION

        print(f"taskmill {VERSION}")
        raise typer.Exit


@app.callback()
def read_common_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Parse the options that come before a command."""


def main() -> None:
    """Run the command. An error that the operator can correct is printed as one message, with exit code 2 and no traceback."""
    try:
        app(prog_name="taskmill")
    except TaskmillError as error:
        print(f"taskmill: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if (explanation := _explain_database_error(error)) is None:
            raise
        print(f"taskmill: {explanation}", file=sys.stderr)
        sys.exit(1)


def _explain_database_error(error: Exception) -> str | None:
    """Return a message for an error of the database that says what the operator can do, or None for any other error.

    Parts that run permanently wait for the database. This is for commands that need it at once.
    """
    if "psycopg" not in sys.modules:
        return None
    import psycopg

    cause = getattr(error, "orig", error)
    if isinstance(cause, psycopg.errors.UndefinedTable):
        return "the database has no tables yet: run `taskmill migrate` first"
    if isinstance(cause, psycopg.OperationalError):
        from shared.outage_log import describe_outage

        reason = f"the database does not answer: {describe_outage(cause)} TASKMILL_DATABASE_URL has its address."
        may_name_stack = sys.argv[1:2] in (["keys"], ["limits"], ["verify"])
        return f"{reason} To use the database of a local stack, add --data-dir DIR." if may_name_stack else reason
    return None


if __name__ == "__main__":
    main()
