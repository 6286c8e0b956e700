"""Objects that no file refers to are deleted once they are old."""

from __future__ import annotations

from pathlib import Path

from shared.storage.object_store import new_object_key
from tests.workers.conftest import Bench, Tasks
from tests.workers.handlers.maintenance.conftest import Chores


def test_orphans_older_than_a_day_are_deleted_and_nothing_else(
    tasks: Tasks, bench: Bench, chores: Chores, tmp_path: Path
) -> None:
    keys = {}
    for name, hours in {"old": 25, "young": 23, "known": 0}.items():
        path = tmp_path / name
        path.write_bytes(b"x")
        if name == "known":
            _, keys[name] = chores.upload(tmp_path, "1 h")
            chores.age(keys[name], 48)
        else:
            keys[name] = new_object_key()
            bench.store.put_file(keys[name], path)
            chores.age(keys[name], hours)

    assert chores.do("maintenance.delete_orphans") == {"objects": 1}
    assert chores.objects() == {keys["young"], keys["known"]}
