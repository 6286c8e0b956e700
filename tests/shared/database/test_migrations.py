"""The migrations make the schema that the tables describe, one at a time, and a later version's schema is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import sql
from structlog.testing import capture_logs

from cli.local_stack.postgres import PostgresServer
from shared.api_keys import create_key, list_keys
from shared.contracts.catalog import list_kinds
from shared.database.connections import make_engine
from shared.database.schema_migrations import MigrationOutcome, downgrade, migrate
from shared.database.schema_version import newest_revision, require_known_schema, wait_for_schema
from shared.errors import SchemaTooNew
from shared.identifiers import new_id
from shared.queries import hot_tasks
from shared.queries.database_functions import FUNCTIONS
from shared.settings import Settings
from shared.tables.base import metadata
from shared.tables.every_table import EVERY_TABLE
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, submission_document
from tests.conftest import PATIENCE_SECONDS, Parts

FIRST_REVISION = "0001"
CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name <> 'alembic_version'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass""",
    "indexes": """
        SELECT tablename, indexname, indexdef FROM pg_indexes
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'""",
    "storage options": """
        SELECT relname, reloptions::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'""",
}


@contextmanager
def _empty_database(server_url: str) -> Iterator[Settings]:
    name = f"test_{new_id().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield Settings(database_url=server_url.rsplit("/", 1)[0] + "/" + name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _describe(settings: Settings) -> dict[str, set[tuple[Any, ...]]]:
    with psycopg.connect(settings.database_url) as connection:
        return {name: set(connection.execute(query).fetchall()) for name, query in CATALOG.items()}


def test_migrations_bring_an_empty_database_to_what_the_tables_describe(postgres_server: PostgresServer) -> None:
    with _empty_database(postgres_server.url) as settings:
        migrate(settings)

        engine = make_engine(settings, "test")
        with engine.connect() as connection:
            difference = compare_metadata(MigrationContext.configure(connection), metadata)
        engine.dispose()
        revision = require_known_schema(settings)

    assert revision == newest_revision()
    assert difference == []


def test_constraints_indexes_and_defaults_are_the_same_by_either_way(postgres_server: PostgresServer) -> None:
    # Alembic compares neither CHECK constraints nor the conditions of partial indexes.
    with _empty_database(postgres_server.url) as migrated, _empty_database(postgres_server.url) as created:
        migrate(migrated)
        engine = make_engine(created, "test")
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE alembic_version ()")
            metadata.create_all(connection, tables=list(EVERY_TABLE))
        engine.dispose()
        by_migrations, by_tables = _describe(migrated), _describe(created)

    for name, rows in by_migrations.items():
        assert rows == by_tables[name], name


def test_the_functions_are_the_newest_files_of_each(postgres_server: PostgresServer) -> None:
    newest = {folder.name: max(folder.glob("*.sql")) for folder in FUNCTIONS.iterdir()}
    with _empty_database(postgres_server.url) as settings:
        migrate(settings)
        with psycopg.connect(settings.database_url) as connection:
            query = "SELECT proname, prosrc FROM pg_proc WHERE starts_with(proname, 'taskmill_')"
            stored = dict(connection.execute(query).fetchall())

    assert stored == {name: path.read_text(encoding="utf-8").split("$$")[1] for name, path in newest.items()}


def test_migrating_again_changes_nothing(settings: Settings) -> None:
    before = _describe(settings)

    migrate(settings)

    assert _describe(settings) == before


def test_all_migrations_can_be_undone_and_repeated_on_a_filled_database(settings: Settings) -> None:
    before = _describe(settings)
    create_key(settings, "someone", "client")
    task = make_task("platform.ping", list_kinds()["platform.ping"], b"{}", "files", TaskOptions(), new_id(), new_id())
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(hot_tasks.SUBMIT, {"document": submission_document([task])})
    engine = make_engine(settings, "test", timeout_seconds=None)

    downgrade(engine, FIRST_REVISION)
    migrate(settings)
    engine.dispose()

    after = _describe(settings)
    for name, rows in before.items():
        assert after[name] == rows, name
    with psycopg.connect(settings.database_url) as connection:
        assert connection.execute("SELECT id, status FROM tasks").fetchall() == [(task.id, "queued")]
    assert [key.name for key in list_keys(settings)] == ["someone"]


def test_three_concurrent_migrations_all_succeed(postgres_server: PostgresServer, parts: Parts) -> None:
    with _empty_database(postgres_server.url) as settings:
        parts.settings = settings
        started = [parts.start("migrate") for _ in range(3)]
        codes = [process.wait(timeout=PATIENCE_SECONDS) for process in started]
        described = _describe(settings)

    assert codes == [0, 0, 0], parts.logs()
    assert described["columns"]


def _make_newer(settings: Settings) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def test_a_newer_schema_is_not_migrated(settings: Settings) -> None:
    _make_newer(settings)

    with pytest.raises(SchemaTooNew, match="9999"):
        migrate(settings)


def test_every_part_refuses_a_newer_schema_and_says_why(settings: Settings, parts: Parts) -> None:
    _make_newer(settings)

    commands = [("api", "--port", "0"), ("relay",), ("worker", "--queues", "files"), ("beat",), ("migrate",)]
    started = [parts.start(*command) for command in commands]
    codes = [process.wait(timeout=PATIENCE_SECONDS) for process in started]

    assert all(code not in (None, 0) for code in codes), dict(zip(commands, codes, strict=True))
    assert parts.logs().count("the database is at migration 9999") == len(commands), parts.logs()
    assert "Traceback" not in parts.logs()


def test_a_part_waits_for_the_migration_and_says_what_to_do(postgres_server: PostgresServer) -> None:
    with _empty_database(postgres_server.url) as settings, capture_logs() as logs, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(wait_for_schema, settings)
        while not logs:
            assert not waiting.done()
        migrate(settings)
        waiting.result(timeout=PATIENCE_SECONDS)

    assert [(entry["event"], entry["todo"]) for entry in logs] == [("database_not_migrated", "run `taskmill migrate`")]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (MigrationOutcome(None, "0002", None), "The tables were created, at revision 0002."),
        (MigrationOutcome("0001", "0002", None), "The database was migrated from revision 0001 to 0002."),
        (MigrationOutcome("0002", "0002", None), "The database is at revision 0002 already"),
        (MigrationOutcome("0002", "0002", "app"), "The role app may read and write rows."),
    ],
)
def test_the_outcome_of_a_migration_is_described(outcome: MigrationOutcome, words: str) -> None:
    assert words in outcome.describe()
