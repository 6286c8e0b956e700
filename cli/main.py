"""The `taskmill` command. Each command imports what it needs when it is called, so that each starts fast."""

from __future__ import annotations

import json
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.errors import TaskmillError

if TYPE_CHECKING:
    from shared.settings import Settings

app = typer.Typer(
    name="taskmill",
    help="Take work over HTTP, do it on workers, and let callers follow it to its end.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")

_URLS = ("database_url", "broker_url", "storage_url")
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_DataDir = Annotated[
    Path | None,
    typer.Option(help="The data directory of the local stack. Default: TASKMILL_DATA_DIR, or ~/.local/share/taskmill."),
]


_StackDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Use the servers of the local stack that runs on this data directory."),
]


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
    """Read the options that stand before a command."""


class Role(StrEnum):
    """What a key may do: `docs/production.md` says what each role is."""

    CLIENT = "client"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command()
def up(
    data_dir: _DataDir = None,
    host: Annotated[str, typer.Option(help="The address that the API listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The API's port; 0 for any that is free.")] = 8000,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="A JSON file with the addresses and the admin's key: written when the stack is ready."),
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
def stop(data_dir: _DataDir = None) -> None:
    """Stop the local stack that runs on a data directory. Its data stay."""
    from cli.local_stack.data_directory import default_data_directory
    from cli.local_stack.stop_and_reset import stop_stack

    directory = data_dir or default_data_directory()
    print(f"Stopped the Taskmill on {directory}." if stop_stack(directory) else f"No Taskmill runs on {directory}.")


@app.command()
def reset(
    data_dir: _DataDir = None,
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
            metavar="DIR", help="Write to a package of its own in this directory, which is made if it is missing."
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
    """Check format, lint, types, import rules and the deployment files."""
    from cli.development.check import run_checks

    raise typer.Exit(run_checks())


@app.command()
def bench(
    part: Annotated[
        str,
        typer.Argument(
            help="submit, poll, drain, latency, fairness, waiters, size, workers, files, reports, email, steady, or all."
        ),
    ] = "all",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How often each system has its turn; 3 unless told.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="How long each load lasts; 4 unless told.")] = None,
    systems: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Tasks to drain; 10,000 unless told.")] = None,
    latency_tasks: Annotated[int | None, typer.Option(min=1, help="Tasks to time; 100 unless told.")] = None,
    waiters: Annotated[int | None, typer.Option(min=1, help="Callers who wait; 1,000 unless told.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Finished tasks in the table; 100,000 unless told.")] = None,
    worker_processes: Annotated[int | None, typer.Option(min=1, help="Of each system; 2 unless told.")] = None,
    processes: Annotated[
        str | None, typer.Option(help="Of the part `workers`, in turn; 1,2,4,8,16 unless told.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Keep all that was measured here.")] = None,
    show: Annotated[Path | None, typer.Option(help="Measure nothing: show what an earlier run has kept.")] = None,
    into: Annotated[Path | None, typer.Option(help="With --show: put it between the marks of this document.")] = None,
) -> None:
    """Measure how fast this is, beside what people build today."""
    from cli.development.bench import BenchOptions, run_bench, show_result

    if show is not None:
        raise typer.Exit(show_result(show, into))
    options = BenchOptions(
        rounds=rounds,
        seconds=seconds,
        systems=tuple(_split_commas(systems)) if systems is not None else None,
        tasks=tasks,
        latency_tasks=latency_tasks,
        waiters=waiters,
        rows=rows,
        worker_processes=worker_processes,
        processes=tuple(map(int, _split_commas(processes))) if processes is not None else None,
    )
    raise typer.Exit(run_bench(part, options, json_file))


@app.command()
def api(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="How many processes serve.")] = 1,
) -> None:
    """Serve HTTP."""
    from api.serve import serve
    from shared.contracts.catalog import list_kinds
    from shared.settings import read_settings

    # A contract that cannot be loaded stops every part at its start, with one line.
    list_kinds()
    serve(read_settings(), host, port, workers)


@app.command()
def relay() -> None:
    """Publish what is due to the broker, and take back what was lost."""
    from shared.contracts.catalog import list_kinds
    from shared.settings import read_settings
    from workers.relay.relay import run_relay

    list_kinds()
    run_relay(read_settings())


@app.command()
def worker(
    queues: Annotated[str, typer.Option(help="The queues to work on, separated by commas, such as files,reports.")],
    concurrency: Annotated[int | None, typer.Option(min=1, help="Attempts at a time.")] = None,
) -> None:
    """Do the work of some queues."""
    from shared.settings import read_settings
    from workers.engine.handler_catalog import load_handlers
    from workers.engine.worker_process import run_worker

    load_handlers()
    run_worker(read_settings(), _split_commas(queues), concurrency)


@app.command()
def beat() -> None:
    """Submit what is due by the clock. Any number may run."""
    from shared.contracts.catalog import list_kinds
    from shared.settings import read_settings
    from workers.beat_scheduler import run_beat

    list_kinds()
    run_beat(read_settings())


@app.command()
def flower() -> None:
    """Serve Flower, where operators watch the workers."""
    from shared.settings import read_settings
    from workers.flower.serve import run_flower

    run_flower(read_settings())


@app.command()
def migrate() -> None:
    """Create or upgrade the tables of the database, and say what was done. It may run again, and several times at once."""
    from shared.database.schema_migrations import migrate as migrate_schema
    from shared.settings import read_settings

    print(migrate_schema(read_settings()).describe(), flush=True)
    if os.environ.get("HONCHO_PROCESS_NAME"):
        # honcho starts the Procfile's `release` beside the others, and ends all of them when one has ended.
        print("Waiting until honcho ends the other processes.", flush=True)
        signal.pause()


@app.command()
def verify(
    since: Annotated[
        str | None, typer.Option(help="Only what was accepted since then: 2026-11-24T10:00:00Z, or an age: 3h, 7d.")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every object and compare its SHA-256.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_dir: _StackDir = None,
) -> None:
    """Check every promise on what is stored; exit with 1 and a list when one is broken."""
    from cli.verify import run_verify

    raise typer.Exit(run_verify(_read_settings(data_dir), since, deep=deep, as_json=as_json))


@app.command()
def chaos(
    seed: Annotated[int, typer.Option(help="The same seed gives the same schedule.")] = 1,
    seconds: Annotated[float, typer.Option(min=5, help="How long work is submitted and faults are thrown.")] = 60,
    rate: Annotated[float, typer.Option(min=0.1, help="Tasks submitted in a second.")] = 10,
    faults: Annotated[str | None, typer.Option(help="Which faults, separated by commas; all unless told.")] = None,
    lease: Annotated[float, typer.Option(min=1, help="The lease of the stack's attempts, in seconds.")] = 5,
) -> None:
    """Throw faults at a local stack under real work, and check every promise; exit with 1 when one is broken."""
    from cli.chaos.run import ChaosOptions, parse_faults, run_chaos

    raise typer.Exit(run_chaos(ChaosOptions(seed, seconds, rate, lease, parse_faults(faults))))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.CLIENT,
    scopes: Annotated[str | None, typer.Option(help="Fewer scopes than the role's own, separated by commas.")] = None,
    organization: Annotated[str | None, typer.Option(help="Whose tasks it sees; one of its own unless told.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it expires: `90d`, `12h`, or a date such as `2027-06-30` (UTC).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_dir: _StackDir = None,
) -> None:
    """Create a key. It is shown now and never again."""
    from datetime import UTC, datetime

    from shared import api_keys

    chosen = _split_commas(scopes) if scopes is not None else None
    try:
        expires_at = api_keys.read_expiry(expires, datetime.now(UTC)) if expires is not None else None
        created = api_keys.create_key(_read_settings(data_dir), name, role.value, chosen, organization, expires_at)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        print(json.dumps(_plain(created)))
        return
    print(created.key)
    print(f"The key of {created.name} ({created.role}), id {created.id}: it is not shown again.", file=sys.stderr)


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, data_dir: _StackDir = None
) -> None:
    """List the keys, without what opens with them."""
    from rich.console import Console
    from rich.table import Table

    from shared import api_keys

    rows = [_plain(row) for row in api_keys.list_keys(_read_settings(data_dir))]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("prefix", "name", "role", "created", "last used", "state")
    table.columns[0].no_wrap = True
    for row in rows:
        of = row["organization"]
        table.add_row(
            row["prefix"],
            row["name"] if of == row["name"] else f"{row['name']}\nof {of}",
            "\n".join([row["role"], *(row["scopes"] if _has_fewer_scopes(row) else [])]),
            _minute(row["created_at"]),
            _minute(row["last_used_at"]),
            _key_state(row),
        )
    Console().print(table)


def _minute(moment: str | None) -> str:
    """Return a moment as date and time in UTC, to the minute."""
    from datetime import UTC, datetime

    return "never" if moment is None else f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M}"


def _has_fewer_scopes(key: dict[str, Any]) -> bool:
    from shared.api_keys import DEFAULT_SCOPES

    return set(key["scopes"]) != set(DEFAULT_SCOPES[key["role"]])


def _key_state(key: dict[str, Any]) -> str:
    """Say whether a key opens anything; JSON has the times."""
    from datetime import UTC, datetime

    if key["revoked_at"]:
        return "revoked"
    if key["expires_at"] is None:
        return "valid"
    expires_at = datetime.fromisoformat(key["expires_at"])
    return f"until {expires_at:%Y-%m-%d}" if expires_at > datetime.now(UTC) else "expired"


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id, or its prefix.")], data_dir: _StackDir = None
) -> None:
    """Revoke a key: from now on it opens nothing."""
    from shared import api_keys

    if not api_keys.revoke_key(_read_settings(data_dir), key):
        print("There is no such key, or it is revoked already.", file=sys.stderr)
        raise typer.Exit(1)
    print("Revoked.", file=sys.stderr)


def main() -> None:
    """Run the command. An error of the operator's making is one plain message and exit code 2, never a traceback."""
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
    """Say what an operator can do about the database; none when it is about something else.

    Parts that run for long wait for it; this is for commands that need it now.
    """
    if "psycopg" not in sys.modules:
        return None
    import psycopg

    cause = getattr(error, "orig", error)
    if isinstance(cause, psycopg.errors.UndefinedTable):
        return "the database has no tables yet: run `taskmill migrate` first"
    if isinstance(cause, psycopg.OperationalError):
        from shared.outage_log import describe_outage

        return (
            f"the database does not answer: {describe_outage(cause)} TASKMILL_DATABASE_URL says where it is looked for."
        )
    return None


def _read_settings(data_dir: Path | None) -> Settings:
    """Read the settings; with a data directory, those of its stack say where the database, broker and objects are."""
    from shared.settings import read_settings

    if data_dir is not None:
        from cli.local_stack.ready_file import read_running

        ready = read_running(data_dir)
        os.environ.update({f"TASKMILL_{name.upper()}": ready[name] for name in _URLS})
    return read_settings()


def _split_commas(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _plain(row: Any) -> dict[str, Any]:
    """A record as JSON has it: identifiers and times as text, sets as sorted lists."""
    from dataclasses import asdict

    return {name: _plain_value(value) for name, value in asdict(row).items()}


def _plain_value(value: object) -> object:
    from datetime import datetime

    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else str(value)


if __name__ == "__main__":
    main()
