"""Entries of the audit log are sealed, tampering with them is found, and only old seals are deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, Engine

from shared.audit.actions import AuditAction
from shared.audit.entries import COMMAND_LINE, Entry, write_entry
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.settings import Settings
from shared.verification import find_broken_rows, verify
from tests.workers.handlers.maintenance.conftest import Chores

NOTHING = {"seals": 0, "entries": 0, "deleted_seals": 0, "deleted_entries": 0}


class Log:
    """The audit log of the test's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, connection: Connection | None = None) -> None:
        """Write an entry, in a transaction of its own or in that of a connection."""
        entry = Entry(COMMAND_LINE, AuditAction.API_KEY_REVOKED, new_id(), new_id(), after={"role": "client"})
        if connection is not None:
            write_entry(connection, entry)
            return
        with self._engine.begin() as own:
            write_entry(own, entry)

    def find_tampering(self, *statements: str) -> list[str]:
        """Return what `verify` finds after statements that no trigger refuses, which are undone."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for statement in statements:
                assert connection.exec_driver_sql(statement).rowcount > 0
            found = [f"{finding.check}: {finding.detail}" for finding in find_broken_rows(connection, None, 2)]
            connection.rollback()
        return found

    def age(self, days: int) -> None:
        """Seal every seal again as if it were so many days older."""
        from shared.queries.audit import hash_seal

        with self._engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql(f"UPDATE audit_seals SET sealed_at = sealed_at - interval '{days} days'")
            for number in connection.exec_driver_sql("SELECT number FROM audit_seals ORDER BY number").scalars().all():
                connection.exec_driver_sql(
                    "UPDATE audit_seals AS seal SET previous_sha256 = coalesce((SELECT sha256 FROM audit_seals AS before"
                    " WHERE before.number = seal.number - 1), '') WHERE number = %s",
                    (number,),
                )
                connection.exec_driver_sql(
                    f"UPDATE audit_seals AS seal SET sha256 = {hash_seal('seal')} WHERE number = %s", (number,)
                )
            connection.exec_driver_sql(
                "UPDATE audit_chain SET last_sha256 = (SELECT sha256 FROM audit_seals ORDER BY number DESC LIMIT 1)"
            )

    def list_seals(self) -> Sequence[tuple[int, list[UUID]]]:
        """Return the number and the entries of each seal."""
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT number, entry_ids FROM audit_seals ORDER BY number").all()
        return [(row.number, row.entry_ids) for row in rows]

    def count(self) -> int:
        """Return the number of entries."""
        with self._engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM audit_entries").scalar_one())


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings, "test", pool_size=2)
    yield engine
    engine.dispose()


@pytest.fixture
def log(engine: Engine) -> Log:
    return Log(engine)


def test_an_entry_that_commits_late_is_sealed_later_and_delays_no_other(
    log: Log, engine: Engine, chores: Chores
) -> None:
    with engine.connect() as late:
        log.write(late)
        log.write()
        assert chores.do("maintenance.seal_audit") == {**NOTHING, "seals": 1, "entries": 1}
        late.commit()
    assert chores.do("maintenance.seal_audit") == {**NOTHING, "seals": 1, "entries": 1}
    assert chores.do("maintenance.seal_audit") == NOTHING
    assert [(number, len(entries)) for number, entries in log.list_seals()] == [(1, 1), (2, 1)]
    assert log.find_tampering() == []


def test_verify_finds_every_kind_of_tampering(log: Log, chores: Chores) -> None:
    for _ in range(3):
        for _ in range(2):
            log.write()
        chores.do("maintenance.seal_audit")
    log.write()
    entries = dict(log.list_seals())
    assert log.find_tampering() == []

    of_second = f"WHERE id = '{entries[2][1]}'"
    (changed,) = log.find_tampering(f'UPDATE audit_entries SET after = \'{{"role": "admin"}}\' {of_second}')
    assert "an entry of the seal 2, of which this is the first, was changed" in changed
    (changed,) = log.find_tampering(f"UPDATE audit_entries SET at = at - interval '1 second' {of_second}")
    assert "was changed" in changed
    (removed,) = log.find_tampering(f"DELETE FROM audit_entries {of_second}")
    assert "it is missing, and the seal 2 covers it" in removed
    (unsealed,) = log.find_tampering("DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_unsealed)")
    assert "it was removed before it was sealed" in unsealed
    (inserted,) = log.find_tampering(
        "INSERT INTO audit_entries (id, actor_type, action, resource_type) VALUES (gen_random_uuid(), 'command', 'x', 'x')"
    )
    assert "it was inserted past the triggers" in inserted

    remove = "DELETE FROM audit_entries WHERE id = ANY (SELECT unnest(entry_ids) FROM audit_seals WHERE number = {0})"
    for number, trace in (
        (1, "the seal 2 follows, and the seal 1 is missing"),
        (2, "the seal 3 follows, and the seal 2 is missing"),
        (3, "the seal 2 is the last, and the chain ends with the seal 3"),
    ):
        delete_seal = f"DELETE FROM audit_seals WHERE number = {number}"
        (with_entries,) = log.find_tampering(remove.format(number), delete_seal)
        assert trace in with_entries
        alone = log.find_tampering(delete_seal)
        assert len(alone) == 3 and "its seal was removed" in alone[0]
    (emptied,) = log.find_tampering(
        "DELETE FROM audit_entries WHERE id = ANY (SELECT unnest(entry_ids) FROM audit_seals)",
        "DELETE FROM audit_seals",
    )
    assert "the chain has 3 seals, and the last of them is missing" in emptied


def test_an_entry_with_a_time_long_before_its_seal_is_found(log: Log, engine: Engine, chores: Chores) -> None:
    log.write()
    chores.do("maintenance.seal_audit")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO audit_entries (id, at, actor_type, action, resource_type)"
            " VALUES (gen_random_uuid(), now() - interval '1 day', 'command', 'x', 'x')"
        )
    chores.do("maintenance.seal_audit")
    (backdated,) = log.find_tampering()
    assert "which is not the first after that" in backdated


def test_only_whole_seals_older_than_the_setting_are_deleted(log: Log, chores: Chores) -> None:
    for days in (1, 399):
        log.write()
        chores.do("maintenance.seal_audit")
        log.age(days)
        # 400 days are over since the first seal was made, and 399 since the second.
    log.write()
    assert chores.do("maintenance.seal_audit") == {"seals": 1, "entries": 1, "deleted_seals": 1, "deleted_entries": 1}
    assert [number for number, _ in log.list_seals()] == [2, 3]
    assert log.count() == 2
    assert log.find_tampering() == []
    assert log.find_tampering("DELETE FROM audit_seals WHERE number = 2") != []


def test_the_log_is_kept_for_a_day_at_least(log: Log, chores: Chores, database_url: str) -> None:
    log.write()
    chores.do("maintenance.seal_audit")
    with (
        psycopg.connect(database_url, row_factory=namedtuple_row) as connection,
        pytest.raises(psycopg.Error, match="kept for a day at least"),
    ):
        connection.execute("SELECT taskmill_delete_old_seals(0, 10)")
    assert log.count() == 1


def test_verify_warns_of_seals_that_were_deleted_too_early(log: Log, chores: Chores, settings: Settings) -> None:
    log.write()
    chores.do("maintenance.seal_audit")
    log.age(2)
    with psycopg.connect(settings.database_url) as connection:
        connection.execute("SELECT taskmill_delete_old_seals(1, 10)")

    report = verify(settings)

    (warning,) = report.warnings
    assert "younger than 400 days" in warning.detail
    assert report.sound
