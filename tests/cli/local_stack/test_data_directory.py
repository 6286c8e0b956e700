from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from cli.local_stack.data_directory import DataDirectory, default_data_directory
from shared.errors import ConfigurationError


def test_a_second_stack_on_a_directory_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with (
        DataDirectory(tmp_path / "data"),
        pytest.raises(ConfigurationError, match=f"process {os.getpid()}.*another --data-dir"),
        DataDirectory(tmp_path / "data"),
    ):
        pass


def test_a_directory_can_be_used_again_after_its_stack_ended(tmp_path: Path) -> None:
    for _ in range(2):
        with DataDirectory(tmp_path / "data"):
            pass


def test_secrets_and_ports_stay_the_same(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "data") as directory:
        first = directory.secret("flower_password"), directory.port("smtp")
    with DataDirectory(tmp_path / "data") as directory:
        again = directory.secret("flower_password"), directory.port("smtp")

    assert first == again


def test_a_port_that_was_taken_meanwhile_is_changed(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "data") as directory:
        port = directory.port("smtp")
        with socket.create_server(("127.0.0.1", port)):
            assert directory.port("smtp") != port


def test_a_copy_forgets_the_processes_of_the_original(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "data") as directory:
        mark = directory.secret("mark")
        directory.process_record.write_text("{}")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    (tmp_path / "data").rename(tmp_path / "renamed")

    with DataDirectory(tmp_path / "copy") as copy, DataDirectory(tmp_path / "renamed") as renamed:
        assert copy.secret("mark") != mark
        assert not copy.process_record.exists()
        assert renamed.secret("mark") == mark
        assert renamed.process_record.exists()


def test_a_directory_of_an_older_version_keeps_its_mark(tmp_path: Path) -> None:
    (tmp_path / "local_stack.json").write_text('{"mark": "old"}')

    with DataDirectory(tmp_path) as directory:
        assert directory.secret("mark") == "old"


def test_the_default_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKMILL_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/ana")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_directory() == Path("/home/ana/.local/share/taskmill")

    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert default_data_directory() == Path("/home/ana/.local/share/taskmill")

    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_directory() == Path("/data/taskmill")

    monkeypatch.setenv("TASKMILL_DATA_DIR", "/srv/taskmill")
    assert default_data_directory() == Path("/srv/taskmill")
