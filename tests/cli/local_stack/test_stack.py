"""The whole local stack with its real parts.

A start takes ten seconds, so the tests share one data directory and one running stack, in this order: the tests of a stack
that runs, those that kill parts or all of it, and those that stop it.
"""

from __future__ import annotations

import json
import os
import signal
import smtplib
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from cli.local_stack.child_process import wait_until
from cli.local_stack.process_identity import (
    ProcessIdentity,
    identify,
    is_alive,
    list_marked,
    signal_all,
    wait_until_gone,
)
from cli.local_stack.process_record import MARK
from cli.local_stack.ready_file import PARTS
from cli.local_stack.server_process import ServerFailed
from cli.local_stack.stack import BUILT_IN_SERVERS, LocalStack
from shared.errors import ConfigurationError
from tests.conftest import PATIENCE_SECONDS, RunTaskmill


def submit_ping(ready: dict[str, Any]) -> str:
    body = json.dumps({"kind": "platform.ping", "params": {"echo": "hello"}}).encode()
    headers = {"Authorization": f"Bearer {ready['api_key']}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{ready['api_url']}/tasks", body, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
        task_id = json.load(response)["id"]
    assert isinstance(task_id, str)
    return task_id


def get_task(ready: dict[str, Any], task_id: str, wait_seconds: int = 60) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {ready['api_key']}"}
    request = urllib.request.Request(f"{ready['api_url']}/tasks/{task_id}?wait={wait_seconds}", headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
        task = json.load(response)
    assert isinstance(task, dict)
    return task


def list_processes(stack: LocalStack) -> list[ProcessIdentity]:
    """Return the processes of the stack, without the supervisor.

    Workers are found in the supervisor's record: they are not dumpable, so only root can read their environment.
    """
    mark = json.loads((stack.data_dir / "local_stack.json").read_text())["mark"]
    recorded = json.loads((stack.data_dir / "processes.json").read_text())["running"].values()
    parts = [identity for identity in (ProcessIdentity(**entry) for entry in recorded) if is_alive(identity)]
    return list({*parts, *list_marked(MARK, mark)})


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    """A stack of this file, which its tests may kill and stop."""
    with LocalStack(environment=BUILT_IN_SERVERS) as stack:
        yield stack


@pytest.fixture
def running(own_stack: LocalStack) -> LocalStack:
    """The stack of this file, running."""
    if own_stack.supervisor_pid is None:
        own_stack.start()
    return own_stack


def test_the_ready_file_is_readable_for_its_owner_only_and_names_every_part(running: LocalStack) -> None:
    ready = running.ready

    assert stat.S_IMODE((running.data_dir / "ready.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((running.data_dir / "api_key").stat().st_mode) == 0o600
    assert set(ready["pids"]) == set(PARTS)
    assert all(identify(pid) for (pid,) in ready["pids"].values())
    with psycopg.connect(ready["database_url"]) as connection:
        assert connection.execute("SELECT count(*) FROM tasks").fetchone() is not None
    assert redis.Redis.from_url(ready["broker_url"]).ping()


def test_no_part_connects_to_the_database_as_its_owner(running: LocalStack) -> None:
    ready = running.ready
    with psycopg.connect(ready["database_owner_url"]) as connection:
        sessions = connection.execute(
            "SELECT application_name, usename FROM pg_stat_activity WHERE application_name LIKE 'taskmill-%'"
        ).fetchall()
        owned = connection.execute("SELECT FROM pg_class WHERE relowner = 'taskmill_app'::regrole").fetchall()

    assert "taskmill-relay" in {name for name, _ in sessions}
    assert {role for _, role in sessions} == {"taskmill_app"}
    assert owned == []
    owner_password = ready["database_owner_url"].split(":")[2].split("@")[0]
    for name in ("api", "relay", "beat", "flower", "mail"):
        assert owner_password not in Path(f"/proc/{ready['pids'][name][0]}/environ").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run parts as another account")
def test_no_part_runs_as_root(running: LocalStack) -> None:
    users = {part: psutil.Process(pid).uids() for part, (pid,) in running.ready["pids"].items()}

    assert {part for part, uids in users.items() if 0 in uids} == set()


def test_the_memory_of_workers_is_closed_to_their_own_account(running: LocalStack) -> None:
    workers = [pid for part, (pid,) in running.ready["pids"].items() if part.startswith("worker-")]

    # The kernel gives the files of a process that is not dumpable to root.
    assert {Path(f"/proc/{pid}/environ").stat().st_uid for pid in workers} == {0}


def test_no_secret_is_in_an_argument(running: LocalStack) -> None:
    ready = running.ready
    memory = json.loads((running.data_dir / "local_stack.json").read_text())
    secrets = {ready["api_key"], ready["flower_password"], memory["secret_key"]}
    secrets |= {ready[name].split(":")[2].split("@")[0] for name in ("database_url", "broker_url")}

    for identity in list_processes(running):
        arguments = Path(f"/proc/{identity.pid}/cmdline").read_text()
        assert not [secret for secret in secrets if secret in arguments]


def test_a_task_is_done_and_mail_is_kept(running: LocalStack) -> None:
    ready = running.ready

    assert get_task(ready, submit_ping(ready))["result"] == {"echo": "hello"}

    smtp_port = json.loads((running.data_dir / "local_stack.json").read_text())["smtp_port"]
    with smtplib.SMTP("127.0.0.1", smtp_port) as smtp:
        smtp.sendmail("ana@example.com", ["bob@example.com"], "Subject: hello\r\n\r\nhello\r\n")
    assert len(list(Path(ready["mail_dir"]).glob("*.eml"))) == 1


def test_commands_find_a_running_stack_by_its_data_directory(
    running: LocalStack, taskmill: RunTaskmill, tmp_path: Path
) -> None:
    where = ("--data-dir", str(running.data_dir))

    verified = taskmill("verify", "--json", *where)
    made = taskmill("keys", "create", "ana", "--json", *where)
    listed = taskmill("keys", "list", "--json", *where)
    revoked = taskmill("keys", "revoke", json.loads(made.stdout)["id"], *where)

    assert json.loads(verified.stdout)["sound"] is True
    assert json.loads(made.stdout)["id"] in listed.stdout
    assert revoked.returncode == 0
    # The files of a copy name a stack that runs on the original directory.
    (tmp_path / "ready.json").write_text((running.data_dir / "ready.json").read_text())
    (tmp_path / "lock").touch()
    refused = taskmill("verify", "--data-dir", str(tmp_path))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"No Taskmill runs on {tmp_path}" in refused.stderr


def test_a_second_stack_leaves_the_files_of_the_running_one_alone(running: LocalStack) -> None:
    ready, log = running.ready, running.log_path.read_text()

    with pytest.raises(ConfigurationError, match=f"Another Taskmill .* runs on {running.data_dir}"):
        LocalStack(running.data_dir, environment=BUILT_IN_SERVERS).start()

    assert running.ready == ready
    assert running.log_path.read_text().startswith(log)


def test_a_second_up_on_the_directory_is_refused(running: LocalStack, taskmill: RunTaskmill) -> None:
    outcome = taskmill("up", "--port", "0", "--data-dir", str(running.data_dir))

    assert outcome.returncode == 2
    assert f"process {running.supervisor_pid}" in outcome.stderr
    assert all(identify(pid) for (pid,) in running.ready["pids"].values())


def test_two_stacks_at_once_do_not_disturb_each_other(running: LocalStack, stack: LocalStack) -> None:
    ours, theirs = running.ready, stack.ready
    assert ours["api_url"] != theirs["api_url"]

    task_id = submit_ping(theirs)

    assert get_task(theirs, task_id)["status"] == "succeeded"
    request = urllib.request.Request(
        f"{ours['api_url']}/tasks/{task_id}", headers={"Authorization": f"Bearer {ours['api_key']}"}
    )
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(request, timeout=PATIENCE_SECONDS)
    assert get_task(ours, submit_ping(ours))["status"] == "succeeded"


def test_a_killed_part_is_restarted_and_the_ready_file_has_its_new_pid(running: LocalStack) -> None:
    # One of each kind: `taskmill chaos` kills every part.
    killed = ("postgres", "broker", "api", "worker-files")
    before = running.ready["pids"]
    for part in killed:
        os.kill(before[part][0], signal.SIGKILL)

    def all_replaced() -> bool:
        after = running.ready["pids"]
        return all(after[part] != before[part] and identify(after[part][0]) for part in killed)

    assert wait_until(all_replaced, limit_seconds=PATIENCE_SECONDS)
    ready = running.ready

    def accepts() -> bool:
        try:
            return bool(submit_ping(ready))
        except OSError:
            return False

    assert wait_until(accepts, limit_seconds=PATIENCE_SECONDS, pause_seconds=0.1)
    assert get_task(ready, submit_ping(ready))["status"] == "succeeded"


def test_a_start_ends_what_a_killed_supervisor_left_and_has_all_data(running: LocalStack) -> None:
    ready = running.ready
    done = submit_ping(ready)
    assert get_task(ready, done)["status"] == "succeeded"
    mail = sorted(Path(ready["mail_dir"]).glob("*.eml"))
    # Stopped, so that they cannot notice that their parent has ended. The next start kills them all.
    left = list_processes(running)
    signal_all(left, signal.SIGSTOP)
    running.kill_supervisor()

    running.start()

    assert wait_until_gone(left, limit_seconds=PATIENCE_SECONDS)
    again = running.ready
    assert get_task(again, done)["status"] == "succeeded"
    assert get_task(again, submit_ping(again))["status"] == "succeeded"
    for name in ("api_key", "flower_password", "mail_dir", "storage_url", "database_url", "broker_url", "flower_url"):
        assert again[name] == ready[name]
    assert sorted(Path(again["mail_dir"]).glob("*.eml")) == mail


def test_a_signal_stops_all_parts_in_time_and_leaves_no_process(running: LocalStack) -> None:
    processes = list_processes(running)
    assert len(processes) >= len(PARTS) - 1
    began = time.monotonic()

    assert running.stop() == 0

    assert time.monotonic() - began < 20
    assert not (running.data_dir / "ready.json").exists()
    assert wait_until_gone(processes, limit_seconds=PATIENCE_SECONDS)
    assert list_processes(running) == []


@pytest.mark.parametrize("started", [0, 1, 2])
def test_a_signal_during_the_start_leaves_no_process(own_stack: LocalStack, started: int) -> None:
    own_stack.stop()
    argv = [sys.executable, "-m", "cli.main", "up", "--port", "0", "--data-dir", str(own_stack.data_dir)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_until(lambda: len(list_processes(own_stack)) >= started or process.poll() is not None, PATIENCE_SECONDS)
        process.terminate()
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)

    assert "Traceback" not in output
    assert process.returncode in {0, -signal.SIGTERM}
    assert list_processes(own_stack) == []


def test_a_part_that_refuses_its_settings_ends_the_start(own_stack: LocalStack) -> None:
    own_stack.stop()
    misconfigured = LocalStack(own_stack.data_dir, environment=BUILT_IN_SERVERS | {"TASKMILL_FLOWER_USER": "a:b"})

    with pytest.raises(ServerFailed, match="Not ready: flower ended with exit code 2"):
        misconfigured.start()

    assert "Taskmill is ready" not in misconfigured.log_path.read_text()
