"""The health checks of the containers, on real parts."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import psycopg
import pytest

from cli.local_stack.free_ports import choose_port
from deploy import healthcheck
from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS, Eventually, Parts

ROOT = Path(__file__).resolve().parents[2]


class Checked(NamedTuple):
    """The exit code of a check, and what it wrote to standard error."""

    code: int
    errors: str


def check(part: str, settings: Settings | None = None, **variables: str) -> Checked:
    """Run the check of a part in this process, in an environment that also has the given variables."""
    if settings is not None:
        variables |= {"TASKMILL_DATABASE_URL": settings.database_url, "TASKMILL_BROKER_URL": settings.broker_url}
    errors = io.StringIO()
    with patch.dict(os.environ, variables), contextlib.redirect_stderr(errors):
        return Checked(healthcheck.main([part]), errors.getvalue())


def test_a_worker_is_healthy_while_it_writes_signs_of_life(
    parts: Parts, settings: Settings, eventually: Eventually
) -> None:
    worker = parts.start_worker("files")
    eventually(lambda: check("worker", settings).code == 0)

    worker.send_signal(signal.SIGSTOP)
    try:
        with psycopg.connect(settings.database_url, autocommit=True) as connection:
            connection.execute("UPDATE signs_of_life SET at = at - interval '61 seconds'")
        stuck = check("worker", settings)
    finally:
        worker.send_signal(signal.SIGCONT)

    assert (stuck.code, "the worker must write a sign of life" in stuck.errors) == (1, True)
    eventually(lambda: check("worker", settings).code == 0)
    worker.terminate()
    worker.wait(PATIENCE_SECONDS)
    assert "never wrote one" in check("worker", settings).errors


@pytest.mark.parametrize("part", ["relay", "beat"])
def test_relay_and_beat_are_healthy_while_they_write_signs_of_life(
    parts: Parts, settings: Settings, eventually: Eventually, part: str
) -> None:
    silent = check(part, settings)
    assert (silent.code, "never wrote one" in silent.errors) == (1, True)

    parts.start(part)

    eventually(lambda: check(part, settings).code == 0)


def test_no_part_is_healthy_without_its_servers_and_no_password_is_shown() -> None:
    away = Settings(
        database_url=f"postgresql://taskmill:a-secret@127.0.0.1:{choose_port(None)}/taskmill",
        broker_url=f"redis://:a-secret@127.0.0.1:{choose_port(None)}/0",
    )
    for part in ("worker", "relay", "beat"):
        checked = check(part, away)
        assert checked.code == 1
        assert checked.errors.count("\n") == 1
        assert "a-secret" not in checked.errors


def test_flower_is_checked_under_its_url_prefix() -> None:
    checked = check("flower", TASKMILL_FLOWER_PORT=str(choose_port(None)), TASKMILL_FLOWER_URL_PREFIX="flower")

    assert checked.code == 1


def test_an_unknown_part_is_refused() -> None:
    argv = [sys.executable, "-m", "deploy.healthcheck", "nothing"]

    assert subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=90).returncode == 2


@pytest.mark.parametrize(
    ("allowed_hosts", "host"),
    [
        ("tasks.example.com,10.0.0.1", "tasks.example.com"),
        ("*", "localhost"),
        ("", "localhost"),
    ],
)
def test_the_api_is_checked_under_a_host_name_that_it_accepts(
    monkeypatch: pytest.MonkeyPatch, allowed_hosts: str, host: str
) -> None:
    asked: list[tuple[str, str | None]] = []

    def answer(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        asked.append((request.full_url, request.get_header("Host")))
        return io.BytesIO(b"{}")

    monkeypatch.setattr("urllib.request.urlopen", answer)
    monkeypatch.setenv("TASKMILL_ALLOWED_HOSTS", allowed_hosts)

    assert healthcheck.main(["api"]) == 0

    assert asked == [("http://127.0.0.1:8000/health", host)]
