from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cli.local_stack.owned_files import make_folder, read_memory, write_atomically, write_memory
from shared.errors import ConfigurationError


def test_a_written_file_is_readable_for_its_owner_only(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", "first")
    write_atomically(tmp_path / "secret", "second")

    assert (tmp_path / "secret").read_text() == "second"
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "secret"]


def test_a_stored_mapping_is_read_again(tmp_path: Path) -> None:
    write_memory(tmp_path / "memory.json", {"port": 1234})

    assert read_memory(tmp_path / "memory.json") == {"port": 1234}
    assert read_memory(tmp_path / "absent.json") == {}


def test_a_file_that_the_stack_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text("[1, 2")

    with pytest.raises(ConfigurationError, match=r"memory\.json"):
        read_memory(tmp_path / "memory.json")


def test_a_folder_that_exists_keeps_its_permissions(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)

    make_folder(shared / "deep" / "folder")

    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert stat.S_IMODE((shared / "deep").stat().st_mode) == 0o700


def test_a_folder_below_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="cannot be created"):
        make_folder(tmp_path / "file" / "folder")
