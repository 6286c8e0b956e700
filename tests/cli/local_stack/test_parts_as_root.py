"""Started by root, the stack runs its parts as an unprivileged account, which owns what they write."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local_stack import account_python, unprivileged_account
from cli.local_stack.account_python import PythonUnreachable, find_python
from cli.local_stack.child_process import Account
from cli.local_stack.data_directory import DataDirectory, remove_data_directory
from cli.local_stack.part_account import decide_account
from cli.local_stack.part_folders import PartFolders
from cli.local_stack.stop_and_reset import reset_data_directory
from shared.errors import ConfigurationError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run parts as another account")

STRANGER = Account(uid=54_321, gid=54_321)


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every account can pass through, unlike pytest's own; the system folder lies in it."""
    folder = Path(tempfile.mkdtemp(prefix="taskmill-test-"))
    folder.chmod(0o755)
    monkeypatch.setattr(unprivileged_account, "SYSTEM_STATE_FOLDER", folder / "state")
    yield folder
    shutil.rmtree(folder)


def find_owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in [folder, *folder.rglob("*")]}


def test_folders_stay_in_a_data_directory_that_the_account_can_reach(open_folder: Path) -> None:
    with DataDirectory(open_folder / "data") as directory:
        objects = PartFolders(directory, STRANGER).folder("objects")

    assert objects == open_folder / "data" / "objects"
    assert objects.stat().st_uid == STRANGER.uid
    assert stat.S_IMODE(objects.stat().st_mode) == 0o700
    assert (open_folder / "data").stat().st_uid == 0


def test_objects_that_root_wrote_are_handed_over(open_folder: Path) -> None:
    objects = open_folder / "data" / "objects"
    (objects / "ab" / "cd").mkdir(parents=True)
    (objects / "ab" / "cd" / "key").write_text("content")
    os.link(objects / "ab" / "cd" / "key", objects / "second-name")
    (objects / "link").symlink_to("/etc/hostname")

    with DataDirectory(open_folder / "data") as directory:
        PartFolders(directory, STRANGER).folder("objects")

    assert {path.name for path in objects.rglob("*") if path.lstat().st_uid == 0} == {"link"}
    assert Path("/etc/hostname").stat().st_uid == 0


def test_a_file_that_the_account_may_have_linked_is_not_handed_over(open_folder: Path) -> None:
    roots = open_folder / "secret"
    roots.write_text("of root")
    with DataDirectory(open_folder / "data") as directory:
        objects = PartFolders(directory, STRANGER).folder("objects")
        PartFolders(directory, None).folder("objects")
        os.link(roots, objects / "trap")

        PartFolders(directory, STRANGER).folder("objects")

    assert roots.stat().st_uid == 0


def test_folders_move_out_of_a_data_directory_that_only_root_can_reach(tmp_path: Path, open_folder: Path) -> None:
    data = tmp_path / "data"
    (data / "objects").mkdir(parents=True)
    (data / "objects" / "key").write_text("content")
    tmp_path.chmod(0o700)

    with DataDirectory(data) as directory:
        objects = PartFolders(directory, STRANGER).folder("objects")
        assert objects.is_relative_to(open_folder / "state")
        assert (objects / "key").read_text() == "content"
        assert find_owners(objects) == {STRANGER.uid}
    with DataDirectory(data) as directory:
        assert PartFolders(directory, STRANGER).folder("objects") == objects

    remove_data_directory(data)
    assert not objects.exists()


def test_a_reset_deletes_the_folders_outside_of_the_data_directory(tmp_path: Path, open_folder: Path) -> None:
    tmp_path.chmod(0o700)
    with DataDirectory(tmp_path / "data") as directory:
        objects = PartFolders(directory, STRANGER).folder("objects")

    assert reset_data_directory(tmp_path / "data", lambda _: True)

    assert not objects.exists()


def test_a_copy_of_a_data_directory_does_not_take_the_folders_of_the_original(
    tmp_path: Path, open_folder: Path
) -> None:
    tmp_path.chmod(0o700)
    with DataDirectory(tmp_path / "data") as directory:
        objects = PartFolders(directory, STRANGER).folder("objects")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")

    with (
        DataDirectory(tmp_path / "copy") as copy,
        pytest.raises(ConfigurationError, match=f"is a copy of {tmp_path / 'data'}"),
    ):
        PartFolders(copy, STRANGER).folder("objects")
    remove_data_directory(tmp_path / "copy")
    assert objects.exists()

    (tmp_path / "data").rename(tmp_path / "moved")
    with DataDirectory(tmp_path / "moved") as moved:
        assert PartFolders(moved, STRANGER).folder("objects") == objects


def test_a_python_that_the_account_cannot_reach_is_copied_once_for_all_checkouts(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = unprivileged_account.can_reach
    program = Path(sys.executable).resolve()
    monkeypatch.setattr(
        account_python, "can_reach", lambda account, path: path.resolve() != program and reach(account, path)
    )
    account = decide_account({}).account
    assert account is not None

    python = find_python(account)
    outcome = subprocess.run(
        [python.program, "-c", "import os, fastapi; print(os.getuid())"],
        env=python.environment,
        cwd="/",
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        capture_output=True,
        text=True,
    )

    assert Path(python.program).is_relative_to(open_folder / "state")
    assert outcome.stdout == f"{account.uid}\n", outcome.stderr
    assert find_python(account) == python
    get_path = sysconfig.get_path
    other = open_folder / "packages-of-another-checkout"
    other.symlink_to(get_path("purelib"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(other) if name == "purelib" else get_path(name))
    assert find_python(account) != python
    assert len(list((open_folder / "state").glob("python-*"))) == 1


def test_a_copy_of_python_that_no_checkout_uses_is_removed_after_a_day(open_folder: Path) -> None:
    packages = open_folder / "packages"
    packages.mkdir()
    homes = {name: open_folder / f"python-{name}" for name in ("used", "unused", "recent")}
    for name, home in homes.items():
        library = home / "environments" / "one" / "lib" / "python3"
        library.mkdir(parents=True)
        (library / "site-packages").symlink_to(packages if name == "used" else open_folder / "gone")
        os.utime(home, None if name == "recent" else (0, 0))

    account_python.remove_unused_copies(open_folder)

    assert {name for name, home in homes.items() if home.exists()} == {"used", "recent"}


def test_a_project_that_the_account_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(account_python, "PROJECT", tmp_path)
    tmp_path.chmod(0o700)

    with pytest.raises(PythonUnreachable, match=f"it cannot read {tmp_path}"):
        find_python(STRANGER)


def test_kinds_that_the_account_cannot_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(account_python, "list_source_folders", lambda: [tmp_path / "acme_kinds"])
    tmp_path.chmod(0o700)

    with pytest.raises(PythonUnreachable, match=f"it cannot read {tmp_path}/acme_kinds"):
        find_python(STRANGER)


def test_parts_run_as_root_when_the_account_cannot_use_what_the_user_chose(tmp_path: Path, open_folder: Path) -> None:
    tmp_path.chmod(0o700)
    foreign = open_folder / "foreign"
    foreign.mkdir()
    (foreign / "something-else").touch()

    for given, words in (
        ({"TASKMILL_STORAGE_URL": f"file://{tmp_path}/objects"}, f"cannot write to {tmp_path}/objects"),
        ({"TASKMILL_STORAGE_URL": f"file://{foreign}"}, f"cannot write to {foreign}"),
        ({"TASKMILL_SCRATCH_DIR": str(tmp_path)}, f"cannot write to {tmp_path}"),
    ):
        decided = decide_account(given)
        assert decided.account is None
        assert words in str(decided.obstacle)

    assert decide_account({"TASKMILL_STORAGE_URL": f"file://{open_folder}/new"}).account is not None
