from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from cli.local_stack.postgres import PostgresServer
from tests.conftest import RunTaskmill
from tests.kinds_packages import install_package

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer, taskmill: RunTaskmill) -> Iterator[str]:
    """The URL of a database that `migrate` has filled with tables."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_main")
        url = postgres_server.url.rsplit("/", 1)[0] + "/test_main"
        assert taskmill("migrate", TASKMILL_DATABASE_URL=url).returncode == 0
        yield url
        connection.execute("DROP DATABASE test_main WITH (FORCE)")


def test_a_second_migration_changes_nothing_and_says_so(taskmill: RunTaskmill, database_url: str) -> None:
    outcome = taskmill("migrate", TASKMILL_DATABASE_URL=database_url)

    assert outcome.returncode == 0
    assert "already: there was nothing to migrate" in outcome.stdout


def test_migrate_waits_under_honcho_which_ends_all_when_one_has_ended(database_url: str) -> None:
    environment = {**os.environ, "TASKMILL_DATABASE_URL": database_url, "HONCHO_PROCESS_NAME": "release.1"}
    argv = [sys.executable, "-m", "cli.main", "migrate"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "nothing to migrate" in process.stdout.readline()
        assert process.stdout.readline().startswith("Waiting")
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=90) == -signal.SIGTERM


def test_a_key_is_printed_only_when_it_is_created(taskmill: RunTaskmill, database_url: str) -> None:
    made = taskmill("keys", "create", "ana", "--role", "operator", "--json", TASKMILL_DATABASE_URL=database_url)
    listed = taskmill("keys", "list", "--json", TASKMILL_DATABASE_URL=database_url)

    key = json.loads(made.stdout)
    assert key["key"].startswith("tm_")
    assert (key["name"], key["role"]) == ("ana", "operator")
    (row,) = [row for row in json.loads(listed.stdout) if row["id"] == key["id"]]
    assert key["key"] not in listed.stdout
    assert row["revoked_at"] is None


def test_without_json_only_the_key_is_written_to_standard_output(taskmill: RunTaskmill, database_url: str) -> None:
    made = taskmill("keys", "create", "bob", "--scopes", "tasks:read, files:read", TASKMILL_DATABASE_URL=database_url)

    assert made.stdout.startswith("tm_")
    assert len(made.stdout.split()) == 1


def test_a_key_of_one_organization_is_made_for_networks_and_rotated(taskmill: RunTaskmill, database_url: str) -> None:
    options = ("--role", "admin", "--organization-only", "--network", "192.0.2.0/24", "--json")
    made = json.loads(taskmill("keys", "create", "lee", *options, TASKMILL_DATABASE_URL=database_url).stdout)
    outcome = taskmill("keys", "rotate", made["id"], "--overlap", "2h", "--json", TASKMILL_DATABASE_URL=database_url)
    listed = json.loads(taskmill("keys", "list", "--json", TASKMILL_DATABASE_URL=database_url).stdout)

    rotated = json.loads(outcome.stdout)
    old, new = (next(key for key in listed if key["id"] == one["id"]) for one in (made, rotated))
    for key in (made, rotated, old, new):
        assert (key["role"], key["platform_role"], key["networks"]) == ("admin", None, ["192.0.2.0/24"])
    assert rotated["key"] != made["key"]
    left = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=1) < left <= timedelta(hours=2)
    assert new["expires_at"] is None
    refused = taskmill("keys", "rotate", "000000000000", TASKMILL_DATABASE_URL=database_url)
    assert (refused.returncode, "create a new one" in refused.stderr) == (1, True)
    assert taskmill("keys", "create", "x", "--network", "here", TASKMILL_DATABASE_URL=database_url).returncode == 2


def test_keys_are_listed_with_prefix_creation_last_use_and_expiry(taskmill: RunTaskmill, database_url: str) -> None:
    made = taskmill("keys", "create", "ana", "--expires", "90d", "--json", TASKMILL_DATABASE_URL=database_url)
    listed = taskmill("keys", "list", TASKMILL_DATABASE_URL=database_url, COLUMNS="160").stdout
    refused = taskmill("keys", "create", "ana", "--expires", "soon", TASKMILL_DATABASE_URL=database_url)

    key = json.loads(made.stdout)
    expires_at = datetime.fromisoformat(key["expires_at"])
    assert timedelta(days=89) < expires_at - datetime.now(UTC) < timedelta(days=91)
    row = next(line for line in listed.splitlines() if key["key"].split("_")[1] in line)
    assert f"{datetime.now(UTC):%Y-%m-%d}" in row and "never" in row and f"until {expires_at:%Y-%m-%d}" in row
    assert refused.returncode == 2 and "neither a duration" in refused.stderr


def test_an_unknown_scope_is_refused(taskmill: RunTaskmill, database_url: str) -> None:
    made = taskmill("keys", "create", "eve", "--scopes", "tasks:fly", TASKMILL_DATABASE_URL=database_url)

    assert made.returncode == 2
    assert "tasks:fly" in made.stderr
    assert "Traceback" not in made.stderr


def test_a_scope_beyond_the_role_is_refused(taskmill: RunTaskmill, database_url: str) -> None:
    made = taskmill("keys", "create", "eve", "--scopes", "tasks:read,admin", TASKMILL_DATABASE_URL=database_url)

    assert made.returncode == 2
    assert "the role client does not have the scope admin" in made.stderr


def test_a_key_can_be_revoked_once(taskmill: RunTaskmill, database_url: str) -> None:
    made = json.loads(taskmill("keys", "create", "zoë", "--json", TASKMILL_DATABASE_URL=database_url).stdout)

    assert taskmill("keys", "revoke", made["id"], TASKMILL_DATABASE_URL=database_url).returncode == 0
    assert taskmill("keys", "revoke", made["id"], TASKMILL_DATABASE_URL=database_url).returncode == 1
    assert "zoë" in taskmill("keys", "list", TASKMILL_DATABASE_URL=database_url).stdout


@pytest.mark.parametrize(
    "command", [["api"], ["relay"], ["worker", "--queues", "files"], ["migrate"], ["keys", "list"]]
)
def test_a_wrong_setting_is_one_message_without_its_value(taskmill: RunTaskmill, command: list[str]) -> None:
    outcome = taskmill(*command, TASKMILL_LOG_LEVEL="s3cret-and-wrong")

    assert outcome.returncode == 2
    assert "TASKMILL_LOG_LEVEL" in outcome.stderr
    assert "s3cret" not in outcome.stderr + outcome.stdout
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("command", [["api"], ["beat"], ["migrate"], ["keys", "list"]])
def test_the_url_of_another_database_is_refused_without_its_password(taskmill: RunTaskmill, command: list[str]) -> None:
    outcome = taskmill(*command, TASKMILL_DATABASE_URL="mysql://root:s3cret@127.0.0.1/x")

    assert outcome.returncode == 2
    assert "TASKMILL_DATABASE_URL: must be in libpq's form" in outcome.stderr
    assert "s3cret" not in outcome.stderr + outcome.stdout
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("command", [["migrate"], ["keys", "list"], ["keys", "create", "ana"], ["verify"]])
def test_a_database_that_does_not_answer_is_one_message(taskmill: RunTaskmill, command: list[str]) -> None:
    outcome = taskmill(*command, TASKMILL_DATABASE_URL="postgresql://taskmill:s3cret@127.0.0.1:1/taskmill")

    assert outcome.returncode == 1
    assert outcome.stderr.startswith("taskmill: the database does not answer: ")
    assert "TASKMILL_DATABASE_URL" in outcome.stderr
    # Only these have the option.
    assert ("--data-dir" in outcome.stderr) == (command != ["migrate"])
    assert "s3cret" not in outcome.stderr + outcome.stdout
    assert "Traceback" not in outcome.stderr


def test_keys_of_a_database_without_tables_ask_for_a_migration(taskmill: RunTaskmill, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare")

    outcome = taskmill("keys", "list", TASKMILL_DATABASE_URL=database_url.rsplit("/", 1)[0] + "/bare")

    assert outcome.returncode == 1
    assert "run `taskmill migrate` first" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_list_of_keys_fits_a_terminal_with_prefixes_that_can_be_revoked(
    taskmill: RunTaskmill, database_url: str
) -> None:
    made = json.loads(
        taskmill(
            "keys",
            "create",
            "narrow",
            "--scopes",
            "tasks:read",
            "--organization",
            "others",
            "--json",
            TASKMILL_DATABASE_URL=database_url,
        ).stdout
    )
    listed = taskmill("keys", "list", TASKMILL_DATABASE_URL=database_url, COLUMNS="80").stdout

    prefix = made["key"].split("_")[1]
    assert prefix in listed
    assert "narrow" in listed
    assert "of others" in listed
    assert "tasks:read" in listed
    assert max(map(len, listed.splitlines())) <= 80
    assert taskmill("keys", "revoke", prefix, TASKMILL_DATABASE_URL=database_url).returncode == 0
    assert "revoked" in taskmill("keys", "list", TASKMILL_DATABASE_URL=database_url, COLUMNS="80").stdout


def test_production_does_not_start_on_default_secrets(taskmill: RunTaskmill) -> None:
    outcome = taskmill("api", TASKMILL_ENVIRONMENT="production")

    assert outcome.returncode == 2
    assert "TASKMILL_SECRET_KEY" in outcome.stderr


def test_the_version_is_that_of_the_project(taskmill: RunTaskmill) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert taskmill("--version").stdout == f"taskmill {project['version']}\n"


def test_the_shell_completes_commands(taskmill: RunTaskmill) -> None:
    asked = {"_TASKMILL_COMPLETE": "complete_bash", "COMP_WORDS": "taskmill mig", "COMP_CWORD": "1"}

    assert taskmill(**asked).stdout.split() == ["migrate"]


def test_a_clash_of_kinds_is_one_line_at_start(taskmill: RunTaskmill, tmp_path: Path) -> None:
    install_package(tmp_path, entry_point="files")

    for command in (["api"], ["worker", "--queues", "files"]):
        outcome = taskmill(*command, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")

        assert outcome.returncode == 2, outcome.stderr
        assert outcome.stderr.startswith("taskmill: the installed package taskmill-acme declares the family files")
        assert outcome.stderr.count("\n") == 1


def test_the_command_imports_no_framework_at_start() -> None:
    script = "import sys, cli.main; print(sorted({'sqlalchemy', 'fastapi', 'celery', 'psycopg'} & sys.modules.keys()))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, because any process waits on a busy machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


def test_a_port_that_is_taken_is_one_message(taskmill: RunTaskmill, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = taskmill("up", "--data-dir", str(tmp_path / "data"), "--port", port)

    assert outcome.returncode == 2
    assert f"Port {port} of 127.0.0.1 is taken" in outcome.stderr


@pytest.mark.parametrize("command", [["up", "--port", "0"], ["demo"]])
def test_a_data_directory_that_cannot_be_written_is_one_message(
    taskmill: RunTaskmill, command: list[str], tmp_path: Path
) -> None:
    # Root can write to every folder, but cannot write to a file that is a folder.
    for name in ("lock", "ready.json"):
        (tmp_path / name).mkdir()

    outcome = taskmill(*command, "--data-dir", str(tmp_path))

    assert outcome.returncode == 2
    assert f"The data directory {tmp_path} cannot be used: {tmp_path}/" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(("name", "reason"), [("", "it is a folder"), ("missing/ready.json", "No such file")])
def test_a_ready_file_that_cannot_be_written_is_one_message(
    taskmill: RunTaskmill, name: str, reason: str, tmp_path: Path
) -> None:
    outcome = taskmill("up", "--port", "0", "--data-dir", str(tmp_path / "data"), "--ready-file", str(tmp_path / name))

    assert outcome.returncode == 2
    assert f"cannot be written: {reason}" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_an_address_of_another_machine_is_one_message(taskmill: RunTaskmill, tmp_path: Path) -> None:
    outcome = taskmill("up", "--data-dir", str(tmp_path / "data"), "--host", "192.0.2.1")

    assert outcome.returncode == 2
    assert "192.0.2.1 is not an address of this machine" in outcome.stderr
