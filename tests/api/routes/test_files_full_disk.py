"""Uploads on a disk that is really full: a file system of a few mebibytes, where this process may mount one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.conftest import Api


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a file system takes root; tests/api/routes/test_files.py simulates the full disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def settings(settings: Settings, small_disk: Path) -> Settings:
    return settings.model_copy(update={"storage_url": f"file://{small_disk}/objects"})


@pytest.mark.needs_program("mount", debian="mount")
def test_a_full_disk_refuses_an_upload_and_accepts_a_smaller_one(api: Api, small_disk: Path) -> None:
    client = api.client()
    for size in (20 << 20, 9 << 20):
        answer = client.post("/files", files={"file": ("x", os.urandom(size))})
        assert (answer.status_code, answer.json()["type"]) == (507, "/problems/storage-full")
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    assert client.get("/tasks").json()["items"] == []
    assert client.post("/files", files={"file": ("x", os.urandom(4 << 20))}).status_code == 202
