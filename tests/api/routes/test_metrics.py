"""`GET /metrics`, read as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from shared.queries.signs_of_life import SHOW_SIGN_OF_LIFE
from shared.settings import Settings
from tests.conftest import Api

TWO_CANARIES = """
WITH t AS (
    INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds, keep_seconds,
        attempt, version, created_at, started_at, finished_at, purge_at)
    VALUES (gen_random_uuid(), 'platform.canary', 'files', 'succeeded', gen_random_uuid(), gen_random_uuid(), 3, 60, 60,
        1, 3, now() - interval '10.25 s', now() - interval '10 s', now() - interval '10 s', now() + interval '1 h')
    RETURNING id
),
s AS (
    INSERT INTO schedules (id, name, kind, params, every_seconds)
    VALUES (gen_random_uuid(), 'canary-files', 'platform.canary', '{"queue": "files"}', 20),
        (gen_random_uuid(), 'canary-email', 'platform.canary', '{"queue": "email"}', 20)
    RETURNING id, name
)
INSERT INTO schedule_slots (schedule_id, slot, task_id)
SELECT s.id, now() - interval '30 s', CASE s.name WHEN 'canary-files' THEN t.id ELSE gen_random_uuid() END FROM s, t"""
"""Rows of two canaries: one succeeded after a quarter of a second, the other has not."""


def read(api: Api) -> dict[tuple[str, str], float]:
    """Return the value of each sample by the name of the metric and its only label."""
    answer = api.client("operator", "operator").get("/metrics")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.headers["content-type"].startswith("text/plain; version=1.0.0")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }  # type: ignore[misc]


def test_a_queue_has_its_canarys_round_trip(
    settings: Settings, serve: Callable[[Settings], AbstractContextManager[Api]]
) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(TWO_CANARIES)
        connection.execute(SHOW_SIGN_OF_LIFE, {"part": "relay"})

    with serve(settings) as api:
        found = read(api)

    assert found.keys() == {
        ("taskmill_canary_age_seconds", "files"),
        ("taskmill_canary_age_seconds", "email"),
        ("taskmill_canary_round_trip_seconds", "files"),
        ("taskmill_sign_of_life_age_seconds", "relay"),
    }
    assert found["taskmill_canary_round_trip_seconds", "files"] == 0.25
    assert 10 <= found["taskmill_canary_age_seconds", "files"] < 30 <= found["taskmill_canary_age_seconds", "email"]
    assert 0 <= found["taskmill_sign_of_life_age_seconds", "relay"] < 15


def test_a_client_may_not_read_metrics(
    settings: Settings, serve: Callable[[Settings], AbstractContextManager[Api]]
) -> None:
    with serve(settings) as api:
        answer = api.client("someone").get("/metrics")

    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
