"""Statements on the audit log: its entries and the seals over them. Those as plain SQL are for psycopg and SQLAlchemy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, or_, select

from shared.identifiers import least_id
from shared.tables.audit import audit_entries

_CLOCK_DIFFERENCE: Final = timedelta(hours=1)
"""How much the times of ids and of transactions may differ: the clocks of computers, and how long a transaction lasts."""

INSERT_ENTRY: Final = """
INSERT INTO audit_entries (id, actor_type, caller_id, person_id, api_key_id, action, resource_type, resource_id, organization_id,
    address, request_id, before, after)
VALUES (%(id)s, %(actor_type)s, %(caller_id)s, %(person_id)s, %(api_key_id)s, %(action)s, %(resource_type)s, %(resource_id)s,
    %(organization_id)s, %(address)s::text::inet, %(request_id)s, %(before)s::text::jsonb, %(after)s::text::jsonb)"""
"""Insert an entry, with the time of its transaction. `before` and `after` are JSON texts or NULL."""

LOCK_CHAIN: Final = "SELECT last_number, last_sha256 FROM audit_chain WHERE id = 1 FOR UPDATE"
"""Lock the chain of seals until the transaction ends. Execute it before `SEAL`; nobody who writes entries waits for it."""


def _format_time(expression: str) -> str:
    """Return an expression for a time as text that depends on no setting of the session."""
    return f"""to_char({expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US')"""


def hash_entries(ids: str) -> str:
    """Return an expression for the SHA-256 of the entries whose ids an SQL expression names: what a seal stores of them."""
    return f"""(SELECT sha256(convert_to(coalesce(string_agg(jsonb_build_array(entry.id, {_format_time("entry.at")},
        entry.actor_type, entry.caller_id, entry.person_id, entry.api_key_id, entry.action, entry.resource_type, entry.resource_id,
        entry.organization_id, entry.address::text, entry.request_id, entry.before, entry.after)::text, chr(10) ORDER BY entry.id),
        ''), 'UTF8')) FROM audit_entries AS entry WHERE entry.id = ANY ({ids}))"""


def hash_seal(seal: str) -> str:
    """Return an expression for the SHA-256 of a seal, a row of this alias: it covers its entries and the seal before it."""
    return f"""sha256(convert_to(jsonb_build_array({seal}.number, {_format_time(f"{seal}.sealed_at")}, to_jsonb({seal}.entry_ids),
        encode({seal}.entries_sha256, 'hex'), encode({seal}.previous_sha256, 'hex'))::text, 'UTF8'))"""


SEAL: Final = f"""
WITH oldest AS (
    DELETE FROM audit_unsealed AS unsealed
    WHERE unsealed.entry_id IN (SELECT entry_id FROM audit_unsealed ORDER BY entry_id LIMIT %(limit)s)
    RETURNING unsealed.entry_id
),
taken AS (
    SELECT array_agg(entry_id ORDER BY entry_id) AS entry_ids FROM oldest HAVING count(*) > 0
),
seal AS (
    SELECT chain.last_number + 1 AS number, statement_timestamp() AS sealed_at, taken.entry_ids,
        {hash_entries("taken.entry_ids")} AS entries_sha256, chain.last_sha256 AS previous_sha256
    FROM taken CROSS JOIN audit_chain AS chain
),
stored AS (
    INSERT INTO audit_seals (number, sealed_at, entry_ids, entries_sha256, previous_sha256, sha256)
    SELECT seal.number, seal.sealed_at, seal.entry_ids, seal.entries_sha256, seal.previous_sha256, {hash_seal("seal")} FROM seal
    RETURNING number, cardinality(entry_ids) AS entries, sha256
),
chain AS (
    UPDATE audit_chain AS chain SET last_number = stored.number, last_sha256 = stored.sha256 FROM stored WHERE chain.id = 1
)
SELECT number, entries, encode(sha256, 'hex') AS sha256 FROM stored"""
"""Seal the oldest entries that no seal covers, at most `limit`. Returns (number of the seal, its entries, its SHA-256), or no row.

An entry that commits late is covered by a later seal: its row of `audit_unsealed` appears with it.
"""

DELETE_OLD_SEALS: Final = "SELECT seals, entries FROM taskmill_delete_old_seals(%(keep_days)s::int, %(limit)s::int)"
"""Delete the oldest seals with their entries, if they are older than `keep_days`: at most `limit`. Returns how many."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are listed. What is None is not asked for."""

    organization_id: UUID | None = None
    actor_id: UUID | None = None
    """A caller, a person or an API key."""
    actions: tuple[str, ...] = ()
    resource_type: str | None = None
    resource_id: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    """Entries earlier than this moment."""


def list_entries(which: EntryFilter, before_id: UUID | None, limit: int) -> Select[Any]:
    """List entries, newest first: every column of `audit_entries`, of those with an id below `before_id`."""
    entry = audit_entries.c
    statement = select(audit_entries).order_by(entry.id.desc()).limit(limit)
    for column, value in (
        (entry.organization_id, which.organization_id),
        (entry.resource_type, which.resource_type),
        (entry.resource_id, which.resource_id),
        (entry.request_id, which.request_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if which.actor_id is not None:
        actors = (entry.caller_id, entry.person_id, entry.api_key_id)
        statement = statement.where(or_(*(column == which.actor_id for column in actors)))
    if which.actions:
        statement = statement.where(entry.action.in_(which.actions))
    if which.since is not None:
        # Ids sort by time, so that the index on them bounds what is read.
        statement = statement.where(entry.at >= which.since, entry.id >= least_id(which.since, -_CLOCK_DIFFERENCE))
    if which.before is not None:
        statement = statement.where(entry.at < which.before, entry.id < least_id(which.before, _CLOCK_DIFFERENCE))
    return statement if before_id is None else statement.where(entry.id < before_id)
