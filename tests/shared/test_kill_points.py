"""Kill points kill a process in tests, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared import kill_points
from shared.errors import ConfigurationError
from shared.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
SAFE = {
    "TASKMILL_SECRET_KEY": "k" * 40,
    "TASKMILL_FLOWER_PASSWORD": "a flower's own password",
    "TASKMILL_ALLOWED_HOSTS": "tasks.example.com",
}
REACH = """
from shared import kill_points
from shared.settings import read_settings
read_settings()
for name in ("after-intent", "after-claim", "after-claim"):
    kill_points.reach(name)
    print(name, flush=True)
"""


def reach_with(value: str, environment: str | None) -> subprocess.CompletedProcess[str]:
    variables = {kill_points.KILL_POINT_VARIABLE: value, "PYTHONPATH": str(ROOT)}
    if environment is not None:
        variables["TASKMILL_ENVIRONMENT"] = environment
    return subprocess.run([sys.executable, "-c", REACH], env=variables, capture_output=True, text=True, timeout=60)


def test_a_process_is_killed_at_the_named_point_and_time() -> None:
    died = reach_with("after-claim:2", "development")

    assert died.returncode == -signal.SIGKILL
    assert died.stdout.split() == ["after-intent", "after-claim"]


def test_a_point_does_nothing_unless_it_is_armed() -> None:
    lived = reach_with("", "development")

    assert lived.returncode == 0
    assert lived.stdout.split() == ["after-intent", "after-claim", "after-claim"]


def test_production_refuses_to_start_with_a_kill_point(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SAFE, "TASKMILL_ENVIRONMENT": "production"}.items():
        monkeypatch.setenv(name, value)
    read_settings()
    monkeypatch.setenv(kill_points.KILL_POINT_VARIABLE, "after-claim")

    with pytest.raises(ConfigurationError, match=kill_points.KILL_POINT_VARIABLE):
        read_settings()


def test_a_kill_point_is_refused_without_an_environment() -> None:
    assert "ConfigurationError" in reach_with("after-claim", None).stderr


def test_an_unknown_kill_point_is_refused() -> None:
    assert "must be name" in reach_with("after-lunch", "development").stderr
    assert "must be name" in reach_with("after-claim:x", "development").stderr
