"""`/health` and `/health/ready`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from shared.queries.signs_of_life import SHOW_SIGN_OF_LIFE

PARTS = ["relay", "sweeper", "beat"]


@pytest.fixture
def live(settings: Any) -> Any:
    """Settings of a platform whose other parts showed a sign of life just now."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        for part in PARTS:
            connection.execute(SHOW_SIGN_OF_LIFE, {"part": part})
    return settings


def ask(settings: Any, serve: Callable[..., Any], path: str = "/health/ready") -> Any:
    with serve(settings) as api:
        return api.client_with(None).get(path)


def test_a_platform_with_all_its_parts_is_ready(live: Any, serve: Callable[..., Any]) -> None:
    answer = ask(live, serve)

    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.json()["checks"].keys() == {"database", "storage", "broker", *PARTS}
    assert {check["status"] for check in answer.json()["checks"].values()} == {"ok"}
    assert all(0 <= answer.json()["checks"][part]["age_seconds"] < 15 for part in PARTS)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("broker_url", ["redis://127.0.0.1:1/0", "amqp://guest:secret@127.0.0.1:1//"])
def test_without_the_broker_it_is_degraded_and_takes_submissions(
    live: Any, serve: Callable[..., Any], broker_url: str
) -> None:
    with serve(live.model_copy(update={"broker_url": broker_url})) as api:
        readiness = api.client_with(None).get("/health/ready")
        submitted = api.client("operator", "operator").post("/tasks", json={"kind": "platform.ping"})

    assert (readiness.status_code, readiness.json()["status"]) == (200, "degraded")
    assert readiness.json()["checks"]["broker"]["status"] == "wrong"
    assert "secret" not in readiness.text and "127.0.0.1" not in readiness.text
    assert submitted.status_code == 202


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_silent_makes_it_unavailable(live: Any, serve: Callable[..., Any], part: str) -> None:
    with psycopg.connect(live.database_url, autocommit=True) as connection:
        connection.execute("UPDATE signs_of_life SET at = now() - interval '16 seconds' WHERE part = %s", [part])

    answer = ask(live, serve)

    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    wrong = {name for name, check in answer.json()["checks"].items() if check["status"] != "ok"}
    assert wrong == {part}
    assert answer.json()["checks"][part]["age_seconds"] >= 16


def test_without_the_database_it_is_unavailable_but_lives(settings: Any, serve: Callable[..., Any]) -> None:
    nowhere = settings.model_copy(update={"database_url": "postgresql://taskmill:hidden@127.0.0.1:1/nope"})

    with serve(nowhere) as api:
        nobody = api.client_with(None)
        readiness, life = nobody.get("/health/ready"), nobody.get("/health")

    assert (readiness.status_code, readiness.json()["checks"]["database"]["status"]) == (503, "wrong")
    assert "hidden" not in readiness.text
    assert (life.status_code, life.json()) == (200, {"status": "ok"})


def test_without_the_storage_it_is_unavailable(live: Any, serve: Callable[..., Any], tmp_path: Any) -> None:
    with serve(live) as api:
        shutil.rmtree(tmp_path / "objects")
        (tmp_path / "objects").write_text("a file in the place of the folder")
        answer = api.client_with(None).get("/health/ready")

    assert (answer.status_code, answer.json()["checks"]["storage"]["status"]) == (503, "wrong")
    assert str(tmp_path) not in answer.text


def test_readiness_may_be_asked_without_a_body(live: Any, serve: Callable[..., Any]) -> None:
    with serve(live) as api:
        answer = api.client_with(None).head("/health/ready")

    assert (answer.status_code, answer.content) == (200, b"")
