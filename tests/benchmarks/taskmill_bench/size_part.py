"""`size`: whether Taskmill is as fast with a table full of done tasks as with an empty one."""

from __future__ import annotations

import time

import psycopg
from taskmill_bench.http_parts import measure_load, submit_and_finish
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill

FULL_TEMPLATE = "bench_taskmill_full"
FILL_ROWS = 200_000
"""How many tasks one statement inserts."""
POLLED_TASKS = 64

# Without triggers and foreign keys: they check rows that change, and these rows are inserted as finished.
PREPARE_TO_FILL = "SET session_replication_role = replica; SET synchronous_commit = off"

# Ids ascend by age as real ones do: one task a second until an hour ago. Each has the history of a task that succeeded.
FILL = """
WITH made AS MATERIALIZED (
    SELECT uuidv7(age) AS id, now() + age AS at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS g
    CROSS JOIN LATERAL (SELECT (g - %(total)s::bigint - 3600) * interval '1 second' AS age) AS a
),
t AS (
    INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds, keep_seconds,
        attempt, version, created_at, started_at, finished_at, purge_at)
    SELECT id, 'platform.ping', 'files', 'succeeded', %(organization)s, %(owner)s, 3, 120, 31536000, 1, 3, at, at, at,
        now() + interval '365 days' FROM made
),
p AS (INSERT INTO task_payloads (task_id, params, result) SELECT id, '{"queue": "files"}', '{"echo": null}' FROM made)
INSERT INTO task_events (task_id, seq, at, type, data)
SELECT id, seq, at, 'status', jsonb_build_object('status', (ARRAY['queued', 'running', 'succeeded'])[seq])
FROM made CROSS JOIN generate_series(1, 3) AS seq"""


class TaskmillFull(Taskmill):
    """Taskmill with `rows` done tasks in its tables from the start."""

    name = "taskmill_full"
    rows = 0

    def make_template(self) -> str:
        from psycopg import sql

        name = f"{FULL_TEMPLATE}_{self.rows}"
        url = self.servers.database_url(name)
        try:
            psycopg.connect(url, connect_timeout=10).close()
        except psycopg.OperationalError:
            draft = self.servers.create_database(f"{name}_draft", super().make_template())
            fill(draft, self.rows)
            with psycopg.connect(self.servers.database_url("postgres"), autocommit=True) as connection:
                statement = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                connection.execute(statement.format(sql.Identifier(f"{name}_draft"), sql.Identifier(name)))
        return name

    def list_some_ids(self, count: int) -> list[str]:
        """Return ids of done tasks of every age in the table."""
        row = self.query(
            "SELECT array_agg(id::text) FROM (SELECT id FROM tasks TABLESAMPLE SYSTEM (%(percent)s) LIMIT %(count)s)",
            {"percent": min(100.0, max(1.0, 200_000 / max(1, self.rows))), "count": count},
        )
        return list(row[0])


def fill(database_url: str, rows: int) -> None:
    """Insert done tasks of one caller into the tables, and update the statistics of Postgres."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(PREPARE_TO_FILL)
        caller = connection.execute("SELECT gen_random_uuid(), gen_random_uuid()").fetchone()
        assert caller is not None
        for first in range(1, rows + 1, FILL_ROWS):
            parameters = {"organization": caller[0], "owner": caller[1], "total": rows}
            connection.execute(FILL, {**parameters, "first": first, "last": min(rows, first + FILL_ROWS - 1)})
        for table in ("tasks", "task_payloads", "task_events"):
            connection.execute(f"VACUUM (ANALYZE) {table}")


def measure_size(system: System, options: Options) -> Measures:
    """Measure submitting, polling, listing and draining."""
    assert isinstance(system, Taskmill)
    if isinstance(system, TaskmillFull):
        system.rows = options.rows
    system.start(workers=True)
    ids = submit_and_finish(system, POLLED_TASKS)
    if isinstance(system, TaskmillFull):
        ids = system.list_some_ids(POLLED_TASKS)
    began_tasks = system.sent
    count = max(50, options.tasks // 5)
    watch = system.watch()
    sending = system.send_many(count)
    ended = system.wait_until_drained()
    usage = watch.stop()
    assert system.sent == began_tasks + count
    measures: Measures = {
        "drain_per_second": count / (ended - sending.began),
        "drain_cpu_us": usage.total_seconds / count * 1e6,
    }
    system.stop_part("worker")
    time.sleep(0.2)
    for name, requests in {
        "poll": [system.poll_request(task_id) for task_id in ids],
        "list": [{**system.poll_request(""), "path": "/tasks?limit=50"}],
        "submit": [system.submit_request()],
    }.items():
        load = measure_load(system, requests, options.seconds)
        measures |= {f"{name}_per_second": load["per_second"], f"{name}_cpu_us": load["cpu_us"]}
    return measures


SIZE = Part(
    "size",
    "submit, poll, list and drain on a table of finished tasks, and on an empty one",
    ("taskmill", TaskmillFull.name),
    measure_size,
    variants={TaskmillFull.name: TaskmillFull},
)
