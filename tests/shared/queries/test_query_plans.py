"""The statements that run all day touch rows by index, on a table that has grown, even when they were prepared before."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Set
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest
from psycopg import sql
from sqlalchemy.dialects.postgresql.psycopg import dialect

from cli.local_stack.postgres import PostgresServer
from shared.contracts.catalog import list_kinds
from shared.database.connections import hot_connection_arguments
from shared.identifiers import new_id
from shared.queries import files as file_queries
from shared.queries import hot_tasks, key_limits, pauses, publishing, submissions, waiting
from shared.queries import relay as relay_queries
from shared.queries import tasks as task_queries
from shared.queries.batches import LIST_BATCH
from shared.tasks.filters import TaskFilter
from shared.tasks.options import TaskOptions
from shared.tasks.states import TaskStatus
from shared.tasks.submission import make_task, submission_document
from tests.conftest import new_database

OWNER = UUID(int=7)
BACKLOG = 20_000
WINDOW = 100
BIG = {"tasks", "task_payloads", "task_events", "task_files", "files", "email_intents", "email_receipts"}
LIVE_INDEXES = {
    "MARK_PUBLISHED": {"ix_tasks_publishable", "ix_tasks_published", "ix_tasks_concurrency_key", "ix_tasks_rate_key"},
    "MARK_WITHIN_LIMITS": {"ix_tasks_publishable", "ix_tasks_published", "ix_tasks_leases"},
    "ARE_LIMITS_USED": {"ix_tasks_concurrency_key", "ix_tasks_rate_key"},
    "LIST_DUE_QUEUES": {"ix_tasks_publishable"},
    "UNBLOCK": {"ix_tasks_blocked"},
    "READ_WAITING": {"ix_tasks_published"},
    "PROMOTE": {"ix_tasks_waiting"},
    "SWEEP": {"ix_tasks_leases"},
    "EXPIRE": {"ix_tasks_expiring"},
    "UNMARK_UNCLAIMED": {"ix_tasks_published"},
    "UNMARK_NEXT": {"ix_tasks_published"},
    "UNMARK_PAUSED": {"ix_tasks_published"},
    "COUNT_AHEAD_OF_DUE": {"ix_tasks_publishable", "ix_tasks_published"},
}
"""By statement, the indexes of live rows only that it may read from the beginning: it asks for what is live."""

GROW = """
INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds, keep_seconds,
    created_at, started_at, finished_at, purge_at, attempt, batch_id)
SELECT gen_random_uuid(), 'platform.ping', 'files', 'succeeded', owner, owner, 3, 60, 60, now() - n * interval '1 s',
    now(), now(), now() + interval '7 days', 1, CASE WHEN n % 100 = 0 THEN gen_random_uuid() END
FROM generate_series(1, 50000) AS n, LATERAL (SELECT lpad(to_hex(n % 50), 32, '0')::uuid AS owner) AS o;
INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds, keep_seconds,
    run_at, next_attempt_at, claim, lease_until, rung_at, ttl, expires_at)
SELECT gen_random_uuid(), 'platform.ping', 'files', status, owner, owner, 3, 60, 60,
    CASE WHEN status = 'scheduled' THEN now() END, CASE WHEN status = 'retrying' THEN now() END,
    CASE WHEN status = 'running' THEN n END, CASE WHEN status = 'running' THEN now() - interval '1 s' END,
    CASE WHEN status = 'queued' AND n % 2 = 0 THEN now() - interval '1 h' END,
    CASE WHEN n % 5 = 0 THEN 60 END, CASE WHEN n % 5 = 0 THEN now() END
FROM generate_series(1, 500) AS n,
    LATERAL (SELECT (ARRAY['scheduled', 'queued', 'queued', 'running', 'retrying'])[1 + n % 5] AS status,
        lpad(to_hex(n % 50), 32, '0')::uuid AS owner) AS o;
INSERT INTO task_payloads (task_id, params) SELECT id, '{}' FROM tasks ON CONFLICT DO NOTHING;
INSERT INTO task_events (task_id, seq, type, data)
SELECT id, n, 'status', '{}' FROM tasks, generate_series(1, 3) AS n ON CONFLICT DO NOTHING;
INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, storage_key, expires_at)
SELECT gen_random_uuid(), owner_id, owner_id, 'a', 'text/plain', 1, sha256(id::text::bytea), 'upload', id::text,
    now() + interval '7 days' FROM tasks;
INSERT INTO task_files (task_id, file_id, role) SELECT t.id, f.id, 'input' FROM tasks t JOIN files f ON f.storage_key = t.id::text;
"""


def _statements() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every statement that is run all day, with parameters of the form that it is given."""
    one, kind = new_id(), list_kinds()["platform.ping"]
    ids, claims = f"{{{one}}}", "{5}"

    def submit() -> dict[str, Any]:
        task = make_task("platform.ping", kind, b"{}", "files", TaskOptions(), OWNER, OWNER)
        return {"document": submission_document([task])}

    artifact = {
        "file_id": new_id(),
        "name": "a",
        "media_type": "text/plain",
        "size": 1,
        "sha256": "00" * 32,
        "storage_key": "a/b",
        "position": 0,
    }
    ending = {"id": one, "claim": 5, "status": "succeeded", "result": {}, "artifacts": [artifact]}
    finish = {"document": orjson.dumps([ending]).decode()}
    log_lines = orjson.dumps(
        [{"position": 1, "age": 0.5, "data": {"level": "info", "text": "t", "fields": {}}}]
    ).decode()
    chore = {"limit": 1000}
    claim = {
        "queues": ["files"],
        "counts": [3],
        "kinds": ["platform.ping"],
        "claims": [10**6] * 3,
        "lease": 15.0,
        "worker": "w",
    }
    return {
        "SUBMIT": (hot_tasks.SUBMIT, submit()),
        "SUBMIT_KEYED": (hot_tasks.SUBMIT_KEYED, submit()),
        "READ": (hot_tasks.READ, {"ids": ids, "organizations": "{NULL}"}),
        "READ_VERSIONS": (hot_tasks.READ_VERSIONS, {"ids": ids, "organizations": "{NULL}"}),
        "READ_CHANGES": (hot_tasks.READ_CHANGES, {"ids": ids, "versions": "{1}"}),
        "MARK_PUBLISHED": (publishing.MARK_PUBLISHED, {"queue": "files", "window": 1000}),
        "MARK_WITHIN_LIMITS": (publishing.MARK_WITHIN_LIMITS, {"queue": "files", "window": 1000}),
        "ARE_LIMITS_USED": (publishing.ARE_LIMITS_USED, {}),
        "LIST_DUE_QUEUES": (publishing.LIST_DUE_QUEUES, {"queues": "{files,email,reports,maintenance}"}),
        "UNBLOCK": (key_limits.UNBLOCK, {}),
        "CLAIM": (hot_tasks.CLAIM, claim),
        "RENEW": (hot_tasks.RENEW, {"ids": ids, "claims": claims, "lease": 15.0}),
        "HOLD_CLAIM": (hot_tasks.HOLD_CLAIM, {"id": one, "claim": 5}),
        "REPORT_PROGRESS": (hot_tasks.REPORT_PROGRESS, {"id": one, "claim": 5, "percent": 4, "message": "m"}),
        "WRITE_LOG": (hot_tasks.WRITE_LOG, {"document": log_lines, "count": 1, "id": one, "claim": 5}),
        "FINISH": (hot_tasks.FINISH, finish),
        "FINISH_WITH_ARTIFACTS": (hot_tasks.FINISH_WITH_ARTIFACTS, finish),
        "FINISH_ANY": (hot_tasks.FINISH_ANY, finish),
        "CANCEL": (task_queries.CANCEL, {"ids": ids}),
        "RETRY": (task_queries.RETRY, {"ids": [one], "kind_attempts": [3]}),
        "PROMOTE": (relay_queries.PROMOTE, chore),
        "SWEEP": (relay_queries.SWEEP, chore),
        "EXPIRE": (relay_queries.EXPIRE, chore),
        "UNMARK_UNCLAIMED": (publishing.UNMARK_UNCLAIMED, {"queue": "files", "seconds": 15.0, "limit": 1000}),
        "UNMARK_NEXT": (publishing.UNMARK_NEXT, {"queue": "files", "tasks": 5}),
        "UNMARK": (publishing.UNMARK, {"ids": ids}),
        "UNMARK_PAUSED": (pauses.UNMARK_PAUSED, {"queues": ["files"], "kind": None}),
        "READ_WAITING": (waiting.READ_WAITING, {"id": one, "organization": None}),
        "COUNT_AHEAD_OF_PUBLISHED": (
            waiting.COUNT_AHEAD_OF_PUBLISHED,
            {"queue": "files", "turn": 5.0, "id": one, "limit": WINDOW},
        ),
        "COUNT_AHEAD_OF_DUE": (
            waiting.COUNT_AHEAD_OF_DUE,
            {
                **{"queue": "files", "turn": None, "id": "ffffffff-ffff-ffff-ffff-ffffffffffff", "limit": WINDOW},
                **{"owner": OWNER, "priority": 5, "window": WINDOW, "pairs": 100},
            },
        ),
        "INSERT_UPLOAD": (
            file_queries.INSERT_UPLOAD,
            {
                **{"id": one, "organization_id": one, "owner_id": one, "name": "a", "media_type": "a/b", "size": 1},
                **{"sha256": b"\0" * 32, "storage_key": str(one), "keep_seconds": 60},
            },
        ),
        "CLAIM_UNIQUENESS": (
            submissions.CLAIM_UNIQUENESS,
            {"owner_id": one, "kind": "a.b", "params_sha256": b"\0" * 32, "task_id": one, "unique_for": 60},
        ),
        "LIST_BATCH": (LIST_BATCH, {"batch_id": one}),
    }


def test_every_hot_statement_has_its_plan_checked() -> None:
    hot = {
        name
        for name, value in vars(hot_tasks).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str) and "tasks" in value
    }

    assert hot - {"NAME_THE_CLAIM"} <= set(_statements())


@contextlib.contextmanager
def _connect_to_new_database(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """A hot connection to a database of its own, which has prepared every statement while the tables were empty."""
    with new_database(server) as url, psycopg.connect(url, **hot_connection_arguments("test")) as connection:
        # Executed twice and without a rollback, because a rollback makes psycopg forget its prepared statements.
        for statement, parameters in [*_statements().values(), *_statements().values()]:
            connection.execute(statement, parameters)  # type: ignore[arg-type]
        yield connection


@pytest.fixture(scope="module")
def grown(postgres_server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """A connection that prepared every statement while the tables were empty; they have grown since."""
    with _connect_to_new_database(postgres_server) as connection:
        with psycopg.connect(connection.info.dsn, autocommit=True, password=connection.info.password) as other:
            other.execute("SET session_replication_role = replica")
            other.execute(GROW)  # type: ignore[arg-type]
            other.execute("ANALYZE")
        yield connection


def _explain(
    connection: psycopg.Connection[Any], statement: str, parameters: dict[str, Any], *, options: str = "FORMAT JSON"
) -> dict[str, Any]:
    """Return the generic plan of a statement that the connection has prepared."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    parts = [part.replace("%%", "%") for part in re.split(r"%\(\w+\)s", statement)]
    prepared = [
        name
        for name, text in connection.execute(
            "SELECT name, statement FROM pg_prepared_statements", prepare=False
        ).fetchall()
        if re.split(r"\$\d+", text) == parts
    ]
    assert len(prepared) >= 1, "it is not prepared"
    arguments = sql.SQL(", ").join(sql.Literal(parameters[name]) for name in names)
    query = sql.SQL("EXPLAIN ({}) EXECUTE {}").format(sql.SQL(options), sql.Identifier(prepared[-1]))
    if names:
        query += sql.SQL(" (") + arguments + sql.SQL(")")
    row = connection.execute(query, prepare=False).fetchone()
    assert row is not None
    return dict(row[0][0]["Plan"])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _reads_too_much(node: dict[str, Any], live_indexes: Set[str] = frozenset()) -> bool:
    if node.get("Relation Name") not in BIG:
        return False
    match node["Node Type"]:
        case "Index Scan" | "Index Only Scan":
            return "Index Cond" not in node and node["Index Name"] not in live_indexes
        case "Seq Scan":
            return True
        case _:
            return False


@pytest.mark.parametrize("name", list(_statements()))
def test_a_statement_prepared_on_empty_tables_reads_grown_ones_by_index(
    grown: psycopg.Connection[Any], name: str
) -> None:
    statement, parameters = _statements()[name]

    nodes = list(_nodes(_explain(grown, statement, parameters)))

    assert [node for node in nodes if _reads_too_much(node, LIVE_INDEXES.get(name, frozenset()))] == []


@pytest.mark.parametrize("name", list(_statements()))
def test_a_statement_planned_on_tables_of_a_few_rows_reads_them_by_index(
    postgres_server: PostgresServer, name: str
) -> None:
    statement, parameters = _statements()[name]
    with _connect_to_new_database(postgres_server) as connection:
        # A plan that was made after an ANALYZE of a few rows is kept until the next ANALYZE.
        connection.execute("ANALYZE")
        (rows,) = connection.execute("SELECT count(*) FROM tasks").fetchone()  # type: ignore[misc]

        nodes = list(_nodes(_explain(connection, statement, parameters)))

    assert 1 <= rows <= 4
    assert [node for node in nodes if _reads_too_much(node, LIVE_INDEXES.get(name, frozenset()))] == []


def test_without_the_settings_of_a_hot_connection_the_plans_would_be_others(
    grown: psycopg.Connection[Any], postgres_server: PostgresServer
) -> None:
    # This shows that the test above can fail.
    (database,) = grown.execute("SELECT current_database()").fetchone()  # type: ignore[misc]
    url = postgres_server.url.rsplit("/", 1)[0] + "/" + database
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute("SET enable_indexscan = off")
        connection.execute("SET enable_bitmapscan = off")
        statement, parameters = _statements()["READ"]
        connection.execute(statement, parameters)  # type: ignore[arg-type]

        nodes = list(_nodes(_explain(connection, statement, parameters)))

    assert any(_reads_too_much(node) for node in nodes)


@pytest.fixture
def ordinary(grown: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the grown tables as an engine opens it: it may plan as it likes."""
    with psycopg.connect(grown.info.dsn, password=grown.info.password, autocommit=True) as connection:
        yield connection


def _explain_once(
    connection: psycopg.Connection[Any], statement: object, parameters: Mapping[str, object] | None = None
) -> dict[str, Any]:
    row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).fetchone()
    assert row is not None
    return dict(row[0][0]["Plan"])


def test_counting_queued_tasks_does_not_read_done_ones(ordinary: psycopg.Connection[Any]) -> None:
    plan = _explain_once(ordinary, task_queries.COUNT_QUEUED)

    assert {node["Index Name"] for node in _nodes(plan) if "Index Name" in node} == {
        "ix_tasks_publishable",
        "ix_tasks_blocked",
        "ix_tasks_published",
    }
    assert [node for node in _nodes(plan) if node["Node Type"] == "Seq Scan"] == []


@pytest.mark.parametrize("organization_id", [None, OWNER])
def test_a_list_of_a_time_reads_the_ids_of_that_time(
    ordinary: psycopg.Connection[Any], organization_id: UUID | None
) -> None:
    day = datetime(2020, 6, 1, tzinfo=UTC)
    statement = task_queries.list_page(
        organization_id,
        TaskFilter(status=(TaskStatus.FAILED,), created_after=day, created_before=day),
        before_id=None,
        limit=50,
    )

    plan = _explain_once(ordinary, statement.compile(dialect=dialect(), compile_kwargs={"literal_binds": True}))

    assert _most_rows_read(plan) < 1000
    assert [node for node in _nodes(plan) if node["Node Type"] == "Seq Scan"] == []


@pytest.mark.parametrize(
    "statuses", ["queued", "running", "scheduled,queued,running,retrying", "expired", "queued,expired"]
)
def test_a_list_of_a_rare_status_does_not_read_the_history(ordinary: psycopg.Connection[Any], statuses: str) -> None:
    wanted = tuple(map(TaskStatus, statuses.split(",")))
    # There are fewer tasks than the limit, so that without an index the whole history would be read.
    statement = task_queries.list_page(OWNER, TaskFilter(status=wanted), before_id=None, limit=1000)

    plan = _explain_once(ordinary, statement.compile(dialect=dialect(), compile_kwargs={"literal_binds": True}))

    assert _most_rows_read(plan) < 2000
    assert [node for node in _nodes(plan) if node["Node Type"] == "Seq Scan"] == []


@pytest.mark.parametrize("name", ["LIST_DUE_QUEUES", "MARK_PUBLISHED", "MARK_WITHIN_LIMITS", "COUNT_AHEAD_OF_DUE"])
def test_statements_on_a_queue_do_not_read_its_long_backlog(postgres_server: PostgresServer, name: str) -> None:
    statement, parameters = _statements()[name]
    if "window" in parameters:
        parameters["window"] = WINDOW
    # The tables were empty at their last ANALYZE, as after a burst of submissions.
    with _connect_to_new_database(postgres_server) as connection:
        connection.execute(
            """INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds,
                keep_seconds)
            SELECT gen_random_uuid(), 'platform.ping', 'files', 'queued', %(owner)s, %(owner)s, 3, 60, 60
            FROM generate_series(1, %(backlog)s)""",
            {"owner": OWNER, "backlog": BACKLOG},
        )

        plan = _explain(connection, statement, parameters, options="ANALYZE, FORMAT JSON")

    assert _most_rows_read(plan) <= 5 * WINDOW


@pytest.mark.parametrize("name", ["CLAIM", "UNMARK_NEXT"])
def test_the_next_published_tasks_are_found_without_reading_the_others(
    postgres_server: PostgresServer, name: str
) -> None:
    statement, parameters = _statements()[name]
    with _connect_to_new_database(postgres_server) as connection:
        connection.execute(
            """INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds,
                keep_seconds, rung_at, turn)
            SELECT gen_random_uuid(), 'platform.ping', 'files', 'queued', %(owner)s, %(owner)s, 3, 60, 60, now(), n
            FROM generate_series(1, %(backlog)s) AS n""",
            {"owner": OWNER, "backlog": BACKLOG},
        )

        plan = _explain(connection, statement, parameters, options="ANALYZE, FORMAT JSON")

    assert _most_rows_read(plan) <= 20


@pytest.mark.parametrize("name", ["FINISH", "FINISH_WITH_ARTIFACTS", "FINISH_ANY", "RENEW"])
def test_statements_on_many_running_tasks_read_each_row_once(postgres_server: PostgresServer, name: str) -> None:
    statement, _ = _statements()[name]
    with _connect_to_new_database(postgres_server) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            """INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds,
                keep_seconds, claim, lease_until)
            SELECT gen_random_uuid(), 'platform.ping', 'files', 'running', %(owner)s, %(owner)s, 3, 60, 60, n, now()
            FROM generate_series(1, %(backlog)s) AS n""",
            {"owner": OWNER, "backlog": BACKLOG},
        )
        held = connection.execute(
            "SELECT id, claim FROM tasks WHERE claim <= %(n)s ORDER BY id", {"n": WINDOW}
        ).fetchall()
        endings = [{"id": task_id, "claim": claim, "status": "succeeded", "artifacts": []} for task_id, claim in held]
        if name == "RENEW":
            ids, claims = (list(column) for column in zip(*held, strict=True))
            parameters = {"ids": ids, "claims": claims, "lease": 15.0}
        else:
            parameters = {"document": orjson.dumps(endings).decode()}

        plan = _explain(connection, statement, parameters, options="ANALYZE, FORMAT JSON")

    assert plan["Actual Rows"] == WINDOW
    assert _most_rows_read(plan) <= 5 * WINDOW


def _most_rows_read(plan: dict[str, Any]) -> float:
    """Return the largest number of rows that one node returned or discarded, over all of its loops."""
    return max(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        + node.get("Rows Removed by Join Filter", 0)
        for node in _nodes(plan)
    )
