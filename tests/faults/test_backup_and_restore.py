"""The steps of `docs/backup.md`: a dump under load, a copy of the objects, and a restore with an empty broker."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import httpx2
import psycopg
import redis
from psycopg import sql

from cli.local_stack.postgres_binaries import find_binaries
from shared.identifiers import new_id
from shared.verification import verify
from tests.conftest import PATIENCE_SECONDS
from tests.faults.conftest import Room

LEASE_SECONDS = 1.0
"""What ran when the dump was made is taken back after so long."""


def test_a_dump_under_load_is_restored_with_an_empty_broker(room: Room, client: httpx2.Client, tmp_path: Path) -> None:
    room.relay()
    room.worker()
    stopping = threading.Event()

    def load() -> None:
        while not stopping.wait(0.02):
            room.submit(client, params={"sleep_ms": 20})
            uploaded = client.post("/files", files={"file": ("a.txt", b"hello " * 200)})
            room.note(uploaded.json()["id"])

    loading = threading.Thread(target=load)
    loading.start()
    try:
        room.eventually(lambda: list(room.statuses().values()).count("succeeded") > 40)
        dump = tmp_path / "taskmill.dump"
        programs = find_binaries(None)
        subprocess.run(
            [programs / "pg_dump", "--format=custom", f"--file={dump}", room.settings.database_url],
            check=True,
            timeout=60,
        )
        incoming = shutil.ignore_patterns(".incoming")
        shutil.copytree(tmp_path / "objects", tmp_path / "restored-objects", ignore=incoming)
    finally:
        stopping.set()
        loading.join(PATIENCE_SECONDS)
    for process in room.parts.processes:
        process.kill()
        process.wait(PATIENCE_SECONDS)

    server = room.settings.database_url.rsplit("/", 1)[0]
    name = f"test_{new_id().hex}"
    with psycopg.connect(room.settings.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    restored = room.settings.model_copy(
        update={"database_url": f"{server}/{name}", "storage_url": f"file://{tmp_path}/restored-objects"}
    )
    subprocess.run(
        [
            programs / "pg_restore",
            "--no-owner",
            "--no-privileges",
            "--exit-on-error",
            f"--dbname={restored.database_url}",
            dump,
        ],
        check=True,
        timeout=60,
    )
    with redis.Redis.from_url(restored.broker_url) as broker:
        broker.flushall()
    before = verify(restored.model_copy(update={"lease_seconds": 3600}), deep=True)
    assert before.sound, before.describe()

    accepted = set(room.accepted)
    room.settings = room.parts.settings = restored
    room.accepted = [task_id for (task_id,) in room.ask("SELECT id::text FROM tasks")]
    live = room.ask("SELECT count(*) FROM tasks WHERE finished_at IS NULL")[0][0]
    room.relay()
    room.worker()
    statuses = room.settle()

    assert set(statuses) <= accepted
    assert len(statuses) > 40
    assert live > 0
    assert set(statuses.values()) == {"succeeded"}
