"""`/health` and `/health/ready`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psycopg
import pytest
import structlog

from api.serve import serve as serve_in_this_process
from cli.local_stack.postgres import PostgresServer
from shared.database.schema_version import newest_revision
from shared.identifiers import new_id
from shared.queries.signs_of_life import SHOW_SIGN_OF_LIFE
from shared.settings import Settings
from shared.storage.local_objects import LocalObjects
from tests.conftest import ServeApi

PARTS = ["relay", "sweeper", "beat"]


@pytest.fixture
def live(settings: Settings) -> Settings:
    """Settings of a platform whose other parts showed a sign of life just now."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        for part in PARTS:
            connection.execute(SHOW_SIGN_OF_LIFE, {"part": part})
    return settings


@pytest.fixture
def empty_database(settings: Settings, postgres_server: PostgresServer) -> Iterator[Settings]:
    """Settings with a database that was never migrated."""
    name = f"test_{new_id().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield settings.model_copy(update={"database_url": postgres_server.url.rsplit("/", 1)[0] + "/" + name})
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def ask(settings: Settings, serve: ServeApi, path: str = "/health/ready") -> httpx2.Response:
    with serve(settings) as api:
        return api.client_with(None).get(path)


def test_a_platform_with_all_its_parts_is_ready(live: Settings, serve: ServeApi) -> None:
    answer = ask(live, serve)

    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.json()["checks"].keys() == {"database", "storage", "broker", *PARTS}
    assert {check["status"] for check in answer.json()["checks"].values()} == {"ok"}
    assert all(0 <= answer.json()["checks"][part]["age_seconds"] < 15 for part in PARTS)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("broker_url", ["redis://127.0.0.1:1/0", "amqp://guest:secret@127.0.0.1:1//"])
def test_without_the_broker_it_is_degraded_and_accepts_submissions(
    live: Settings, serve: ServeApi, broker_url: str
) -> None:
    with serve(live.model_copy(update={"broker_url": broker_url})) as api:
        readiness = api.client_with(None).get("/health/ready")
        submitted = api.client("operator", "operator").post("/tasks", json={"kind": "platform.ping"})

    assert (readiness.status_code, readiness.json()["status"]) == (200, "degraded")
    assert readiness.json()["checks"]["broker"]["status"] == "wrong"
    assert "secret" not in readiness.text and "127.0.0.1" not in readiness.text
    assert submitted.status_code == 202


@pytest.mark.parametrize("part", PARTS)
def test_a_part_without_a_sign_of_life_makes_it_degraded(live: Settings, serve: ServeApi, part: str) -> None:
    with psycopg.connect(live.database_url, autocommit=True) as connection:
        connection.execute("UPDATE signs_of_life SET at = now() - interval '16 seconds' WHERE part = %s", [part])

    answer = ask(live, serve)

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    wrong = {name for name, check in answer.json()["checks"].items() if check["status"] != "ok"}
    assert wrong == {part}
    assert answer.json()["checks"][part]["age_seconds"] >= 16


def test_parts_that_never_ran_make_it_degraded(settings: Settings, serve: ServeApi) -> None:
    answer = ask(settings, serve)

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert all(answer.json()["checks"][part] == {"status": "wrong", "age_seconds": None} for part in PARTS)


def test_without_the_database_it_is_unavailable_and_the_process_still_answers(
    settings: Settings, serve: ServeApi
) -> None:
    nowhere = settings.model_copy(update={"database_url": "postgresql://taskmill:hidden@127.0.0.1:1/nope"})

    with serve(nowhere) as api:
        nobody = api.client_with(None)
        readiness, life = nobody.get("/health/ready"), nobody.get("/health")

    assert (readiness.status_code, readiness.json()["checks"]["database"]["status"]) == (503, "wrong")
    assert "hidden" not in readiness.text
    assert (life.status_code, life.json()) == (200, {"status": "ok"})


def test_with_a_database_that_is_not_migrated_every_route_answers_503(
    empty_database: Settings, settings: Settings, serve: ServeApi
) -> None:
    key = "tm_0123456789ab_secret"
    with serve(empty_database) as api, structlog.testing.capture_logs() as logged:
        client = api.client_with(key)
        readiness = client.get("/health/ready")
        answers = [
            client.get("/tasks"),
            client.get(f"/tasks/{new_id()}"),
            client.post("/tasks", json={"kind": "platform.ping"}),
            client.post("/files", files={"file": ("a.txt", b"x")}),
        ]

    assert (readiness.status_code, readiness.json()["status"]) == (503, "unavailable")
    assert readiness.json()["checks"]["database"]["reason"] == "not migrated: run `taskmill migrate`"
    for answer in answers:
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
        assert "not migrated" in answer.json()["detail"] and answer.headers["retry-after"]
    reports = [entry for entry in logged if entry["log_level"] == "error"]
    assert [entry["event"] for entry in reports] == ["database_not_migrated"] * len(answers)
    assert not any("exc_info" in entry for entry in logged)


def test_with_a_database_of_an_older_revision_it_is_unavailable(live: Settings, serve: ServeApi) -> None:
    with psycopg.connect(live.database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    older = ask(live, serve)
    with psycopg.connect(live.database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of-a-later-version'")
    newer = ask(live, serve)

    assert (older.status_code, newer.status_code) == (503, 200)
    assert newest_revision() != "0001"


def test_the_start_on_a_database_that_is_not_migrated_is_one_line(
    empty_database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.serve.ApiServer.run", lambda server: setattr(server, "started", True))
    monkeypatch.setattr("api.serve.set_up_logs", lambda *_: None)

    with structlog.testing.capture_logs() as logged:
        serve_in_this_process(empty_database, "127.0.0.1", 0, 1)

    assert logged == [
        {
            "event": "database_not_migrated",
            "log_level": "warning",
            "revision": None,
            "needed": newest_revision(),
            "todo": "run `taskmill migrate`",
        }
    ]


def test_without_the_storage_it_is_unavailable(live: Settings, serve: ServeApi, tmp_path: Path) -> None:
    with serve(live) as api:
        shutil.rmtree(tmp_path / "objects")
        (tmp_path / "objects").write_text("a file in the place of the folder")
        answer = api.client_with(None).get("/health/ready")

    assert (answer.status_code, answer.json()["checks"]["storage"]["status"]) == (503, "wrong")
    assert str(tmp_path) not in answer.text


def test_head_of_readiness_has_its_status_and_no_body(live: Settings, serve: ServeApi) -> None:
    with serve(live) as api:
        answer = api.client_with(None).head("/health/ready")

    assert (answer.status_code, answer.content) == (200, b"")


def test_many_requests_at_once_and_soon_after_cause_one_check(
    live: Settings, serve: ServeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = 0
    really_check = LocalObjects.check

    def count(store: LocalObjects) -> None:
        nonlocal checks
        checks += 1
        time.sleep(0.2)  # So that requests come while the check runs.
        really_check(store)

    monkeypatch.setattr(LocalObjects, "check", count)
    monkeypatch.setattr("api.readiness.CHECK_CACHE_SECONDS", 3600.0)

    with serve(live) as api, ThreadPoolExecutor(10) as threads:
        nobody = api.client_with(None)
        answers = list(threads.map(lambda _: nobody.get("/health/ready"), range(20)))
        assert (checks, {answer.status_code for answer in answers}) == (1, {200})
        monkeypatch.setattr("api.readiness.CHECK_CACHE_SECONDS", 0.0)
        nobody.get("/health/ready")

    assert checks == 2
