"""The application role works with rows, and can change nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cli.local_stack.postgres import PostgresServer
from shared.database.schema_migrations import migrate
from shared.database.schema_version import newest_revision, require_known_schema
from shared.errors import ConfigurationError
from shared.settings import Settings

FORBIDDEN = (
    "ALTER TABLE tasks ADD COLUMN more text",
    "ALTER TABLE tasks DISABLE TRIGGER ALL",
    "ALTER TABLE tasks OWNER TO CURRENT_USER",
    "DROP TABLE task_events",
    "DROP FUNCTION taskmill_refuse CASCADE",
    "TRUNCATE tasks CASCADE",
    "CREATE TABLE more (id int)",
    "CREATE ROLE another",
    "SET session_replication_role = replica",
    "SET ROLE taskmill",
    "COPY tasks TO PROGRAM 'cat'",
    "SELECT pg_read_file('/etc/passwd')",
    "UPDATE alembic_version SET version_num = 'x'",
    "UPDATE audit_entries SET action = 'x'",
    "DELETE FROM audit_entries",
    "DELETE FROM audit_seals",
    "DELETE FROM audit_chain",
)


@pytest.fixture
def unprepared(postgres_server: PostgresServer) -> Iterator[Settings]:
    """Settings with two roles for a new, empty database; the application role does not exist yet."""
    name, role = f"test_{secrets.token_hex(8)}", f"app_{secrets.token_hex(8)}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        owner_url = make_conninfo(postgres_server.url, dbname=name)
        try:
            app_url = make_conninfo(owner_url, user=role, password="first-password")
            yield Settings(database_url=app_url, database_owner_url=owner_url)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@pytest.fixture
def prepared(unprepared: Settings) -> Settings:
    """The same after `migrate`."""
    migrate(unprepared)
    return unprepared


def test_the_app_role_can_change_nothing_but_rows(prepared: Settings) -> None:
    executed = []
    with psycopg.connect(prepared.database_url, autocommit=True) as connection:
        for statement in FORBIDDEN:
            try:
                connection.execute(statement)
                executed.append(statement)
            except psycopg.errors.InsufficientPrivilege:
                pass

    assert executed == []


def test_the_app_role_reads_and_writes_every_table_and_owns_none(prepared: Settings) -> None:
    with psycopg.connect(prepared.database_url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT relname::text, relowner = current_user::regrole,"
            " has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')"
            " AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE')"
            " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        ).fetchall()
        connection.execute("LISTEN taskmill")
        connection.execute("NOTIFY taskmill, 'files'")
        notices = list(connection.notifies(timeout=5, stop_after=1))

    assert {name for name, _, may_write in tables if not may_write} == {
        "alembic_version",
        "audit_entries",
        "audit_seals",
        "audit_chain",
    }
    assert not any(is_owner for _, is_owner, _ in tables)
    assert len(notices) == 1


def test_the_app_role_may_use_what_a_later_migration_makes(prepared: Settings) -> None:
    assert prepared.database_owner_url is not None
    with psycopg.connect(prepared.database_owner_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, serial_id bigserial)")

    with psycopg.connect(prepared.database_url, autocommit=True) as connection:
        row = connection.execute("INSERT INTO later DEFAULT VALUES RETURNING id, serial_id").fetchone()

    assert row == (1, 1)


def test_a_database_of_one_role_gets_the_app_role_at_the_next_migrate(unprepared: Settings) -> None:
    assert unprepared.database_owner_url is not None
    migrate(Settings(database_url=unprepared.database_owner_url))

    outcome = migrate(unprepared)

    assert outcome.before == outcome.after == newest_revision()
    assert outcome.app_role is not None
    assert require_known_schema(unprepared) == newest_revision()


def test_migrate_sets_a_changed_password_of_the_app_role(prepared: Settings) -> None:
    changed = prepared.model_copy(
        update={"database_url": make_conninfo(prepared.database_url, password="second-password")}
    )
    with pytest.raises(psycopg.OperationalError):
        require_known_schema(changed)

    migrate(changed)

    assert require_known_schema(changed) == newest_revision()


def test_migrate_refuses_an_app_role_with_the_rights_of_the_owner(unprepared: Settings) -> None:
    assert unprepared.database_owner_url is not None
    role = conninfo_to_dict(unprepared.database_url)["user"]
    with psycopg.connect(unprepared.database_owner_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(sql.Identifier(str(role))))

    with pytest.raises(ConfigurationError, match="is a superuser or has the rights of"):
        migrate(unprepared)


def test_an_owner_who_may_not_create_roles_is_told_what_to_run(prepared: Settings) -> None:
    other = make_conninfo(prepared.database_url, user="app_that_is_not_there", password="x")
    owner_without_rights = Settings(database_url=other, database_owner_url=prepared.database_url)

    with pytest.raises(ConfigurationError, match="CREATE ROLE app_that_is_not_there LOGIN PASSWORD"):
        migrate(owner_without_rights)


def test_a_role_without_rights_is_told_to_run_migrate(unprepared: Settings) -> None:
    assert unprepared.database_owner_url is not None
    migrate(Settings(database_url=unprepared.database_owner_url))
    with psycopg.connect(unprepared.database_owner_url, autocommit=True) as connection:
        role = str(conninfo_to_dict(unprepared.database_url)["user"])
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'first-password'").format(sql.Identifier(role)))

    with pytest.raises(ConfigurationError, match="TASKMILL_DATABASE_OWNER_URL"):
        require_known_schema(unprepared)
