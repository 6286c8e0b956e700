"""The unit that `docs/production.md` gives for machines without containers."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from shared.settings import Settings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "production.md"


@pytest.fixture(scope="module")
def unit_text() -> str:
    found = re.search(r"```ini\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def unit(unit_text: str) -> configparser.ConfigParser:
    # systemd allows EnvironmentFile more than once.
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(unit_text)
    return unit


def test_a_stop_signals_only_the_part_and_waits_long_enough(unit: configparser.ConfigParser) -> None:
    # With the default, its limited children would be ended too, and their tasks fail.
    assert unit["Service"]["KillMode"] == "mixed"
    assert int(unit["Service"]["TimeoutStopSec"]) > Settings().shutdown_grace_seconds * 2


def test_a_part_is_restarted_however_often_it_ends(unit: configparser.ConfigParser) -> None:
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


def test_the_number_of_processes_of_a_part_is_limited(unit: configparser.ConfigParser) -> None:
    assert 256 <= int(unit["Service"]["TasksMax"]) <= 4096


def test_a_part_may_open_a_file_for_each_stream(unit: configparser.ConfigParser) -> None:
    assert int(unit["Service"]["LimitNOFILE"]) > 4 * Settings().max_streams_per_caller


@pytest.mark.needs_program("systemd-analyze", debian="systemd")
def test_systemd_accepts_the_unit(unit_text: str, tmp_path: Path) -> None:
    file = tmp_path / "taskmill@api.service"
    # systemd looks for the program, which is elsewhere on this machine.
    file.write_text(unit_text.replace("/srv/taskmill/taskmill", "/bin/true").replace("User=taskmill", "User=root"))

    outcome = subprocess.run(["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True)

    assert "taskmill@api.service" not in outcome.stderr, outcome.stderr
