"""The limits of keys hold over the death of workers, relays and the content of the broker."""

from __future__ import annotations

from collections.abc import Sequence

import httpx2
import psycopg
import redis
from pydantic import JsonValue

from tests.faults.conftest import Room

LEASE_SECONDS = 3.0

SPANS = """
CREATE TABLE spans (task_id uuid NOT NULL, starts boolean NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION note_span() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spans (task_id, starts) VALUES (NEW.id, NEW.status = 'running');
    RETURN NULL;
END $$;
CREATE TRIGGER note_span AFTER UPDATE OF status ON tasks FOR EACH ROW
WHEN ((old.status = 'running') <> (new.status = 'running') AND new.key_limits IS NOT NULL) EXECUTE FUNCTION note_span()
"""
"""Records each start and end of an attempt, in the transaction that makes it."""

MOST_AT_ONCE = """
SELECT max(running) FROM (
    SELECT sum(CASE WHEN span.starts THEN 1 ELSE -1 END) OVER (ORDER BY span.at, span.starts) AS running
    FROM spans AS span JOIN tasks AS task ON task.id = span.task_id
    WHERE task.key_limits->'concurrency'->>'key' = %s) AS counted
"""

MOST_STARTS = """
SELECT max(starts) FROM (
    SELECT count(*) OVER (ORDER BY span.at RANGE BETWEEN %s * interval '1 second' PRECEDING AND CURRENT ROW) AS starts
    FROM spans AS span JOIN tasks AS task ON task.id = span.task_id
    WHERE span.starts AND task.key_limits->'rate'->>'key' = %s) AS counted
"""


def _submit(room: Room, client: httpx2.Client, tasks: Sequence[dict[str, JsonValue]]) -> None:
    answer = client.post("/tasks/batch", json={"tasks": list(tasks)})
    assert answer.status_code == 202, answer.text
    for task in answer.json()["tasks"]:
        room.note(task["id"])


def _ended(room: Room) -> int:
    ((count,),) = room.ask("SELECT count(*) FROM spans WHERE NOT starts")
    return int(count)


def test_no_more_tasks_of_a_key_run_at_once_whatever_is_killed(room: Room, client: httpx2.Client) -> None:
    with psycopg.connect(room.settings.database_url, autocommit=True) as connection:
        connection.execute(SPANS)
    room.relay(kill="relay-after-mark")
    relay = room.relay()
    workers = [room.worker(concurrency=4) for _ in range(2)]
    limited: list[dict[str, JsonValue]] = []
    for number in range(48):
        params: dict[str, JsonValue] = {"sleep_ms": 100, "queue": ("files", "reports")[number % 2]}
        limited += [
            {"kind": "platform.ping", "params": params, "concurrency": {"key": "a", "limit": 2}},
            {"kind": "platform.ping", "params": params, "rate": {"key": "r", "limit": 10, "period_seconds": 1}},
        ]

    _submit(room, client, limited)
    room.eventually(lambda: _ended(room) > 10)
    workers[0].kill()
    relay.kill()
    with redis.Redis.from_url(room.settings.broker_url) as broker:
        broker.flushall()
    room.relay()
    room.relay()
    room.worker(concurrency=4)
    # Other work of the same caller and queue does not wait for the keys.
    room.wait_for(room.submit(client), "succeeded")

    assert set(room.settle().values()) == {"succeeded"}
    assert room.ask(MOST_AT_ONCE, ["a"]) == [(2,)]
    ((starts,),) = room.ask(MOST_STARTS, [0.999, "r"])
    assert 5 < starts <= 10
