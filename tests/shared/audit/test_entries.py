"""Entries of the audit log are written with what they record, and are never changed."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from sqlalchemy import Engine

from shared.audit.actions import AuditAction
from shared.audit.entries import COMMAND_LINE, Actor, Entry, write_entry
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.settings import Settings


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings, "test", pool_size=1)
    yield engine
    engine.dispose()


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection[object]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=namedtuple_row) as connection:
        yield connection


def test_an_entry_holds_who_did_what_to_which_resource_from_where(engine: Engine, database: psycopg.Connection) -> None:
    caller, key, quota, organization = (new_id() for _ in range(4))
    actor = Actor("key", caller_id=caller, api_key_id=key, address="2001:db8::7", request_id="r-1")
    entry = Entry(actor, AuditAction.QUOTA_CHANGED, quota, organization, {"limit": 10}, {"limit": 20})
    with engine.begin() as connection:
        write_entry(connection, entry)
    row = database.execute("SELECT *, host(address) AS host FROM audit_entries").fetchone()
    assert (row.actor_type, row.caller_id, row.api_key_id, row.person_id) == ("key", caller, key, None)
    assert (row.action, row.resource_type) == ("organization.quota_changed", "organization")
    assert (row.resource_id, row.organization_id, row.host, row.request_id) == (
        str(quota),
        organization,
        "2001:db8::7",
        "r-1",
    )
    assert (row.before, row.after) == ({"limit": 10}, {"limit": 20})


def test_an_entry_is_stored_only_with_the_transaction_that_does_the_thing(
    engine: Engine, database: psycopg.Connection
) -> None:
    with engine.connect() as connection:
        write_entry(connection, Entry(COMMAND_LINE, AuditAction.API_KEY_REVOKED, new_id(), new_id()))
        connection.rollback()
    assert database.execute("SELECT count(*) FROM audit_entries").fetchone() == (0,)
    assert database.execute("SELECT count(*) FROM audit_unsealed").fetchone() == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET after = NULL",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        "TRUNCATE audit_entries CASCADE",
        "TRUNCATE audit_seals",
    ],
)
def test_even_the_owner_of_the_tables_cannot_change_the_log(
    engine: Engine, database: psycopg.Connection, statement: str
) -> None:
    with engine.begin() as connection:
        write_entry(connection, Entry(COMMAND_LINE, AuditAction.API_KEY_REVOKED, new_id(), new_id()))
    with pytest.raises(psycopg.Error, match="is append-only") as caught:
        database.execute(statement)
    assert caught.value.sqlstate == "TM002"


def test_details_of_an_entry_are_bounded(engine: Engine) -> None:
    entry = Entry(COMMAND_LINE, AuditAction.API_KEY_CREATED, new_id(), None, after={"scopes": "x" * 9000})
    with pytest.raises(Exception, match="small_details"), engine.begin() as connection:
        write_entry(connection, entry)
