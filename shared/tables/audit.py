"""Tables of the audit log: its entries, the seals over them, and the ends of the chain of seals.

Entries and seals are never changed. Only the function `taskmill_delete_old_seals` deletes them: whole seals, oldest first.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import INET, JSONB

from shared.tables.base import metadata

moment = DateTime(timezone=True)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("at", moment, nullable=False, server_default=func.now()),
    Column("actor_type", Text, nullable=False),
    Column("caller_id", Uuid),
    Column("person_id", Uuid),
    Column("api_key_id", Uuid),
    Column("action", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text),
    # Whose resource it is; NULL if it is the platform's.
    Column("organization_id", Uuid),
    Column("address", INET),
    Column("request_id", Text),
    Column("before", JSONB(none_as_null=True)),
    Column("after", JSONB(none_as_null=True)),
    CheckConstraint("actor_type IN ('key', 'person', 'command', 'platform', 'anonymous')", name="known_actor_type"),
    CheckConstraint("octet_length(before::text) <= 8192 AND octet_length(after::text) <= 8192", name="small_details"),
    Index("ix_audit_entries_organization", "organization_id", text("id DESC")),
    Index(
        "ix_audit_entries_resource", "resource_id", text("id DESC"), postgresql_where=text("resource_id IS NOT NULL")
    ),
    Index("ix_audit_entries_request", "request_id", postgresql_where=text("request_id IS NOT NULL")),
    Index("ix_audit_entries_caller", "caller_id", text("id DESC"), postgresql_where=text("caller_id IS NOT NULL")),
    Index("ix_audit_entries_person", "person_id", text("id DESC"), postgresql_where=text("person_id IS NOT NULL")),
    Index("ix_audit_entries_key", "api_key_id", text("id DESC"), postgresql_where=text("api_key_id IS NOT NULL")),
)

audit_unsealed = Table(
    "audit_unsealed",
    metadata,
    # An entry that no seal covers yet. A trigger inserts the row with the entry, in the same transaction.
    Column("entry_id", Uuid, primary_key=True),
)

audit_seals = Table(
    "audit_seals",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("sealed_at", moment, nullable=False, server_default=func.now()),
    # In the order in which they are hashed.
    Column("entry_ids", ARRAY(Uuid), nullable=False),
    Column("entries_sha256", LargeBinary, nullable=False),
    Column("previous_sha256", LargeBinary, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    CheckConstraint("cardinality(entry_ids) >= 1", name="has_entries"),
)

audit_chain = Table(
    "audit_chain",
    metadata,
    # One row. Whoever appends a seal, or deletes old ones, locks it.
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("last_number", BigInteger, nullable=False, server_default="0"),
    Column("last_sha256", LargeBinary, nullable=False),
    # The last seal that was deleted because it was old enough; 0 if none was.
    Column("deleted_number", BigInteger, nullable=False, server_default="0"),
    Column("deleted_sha256", LargeBinary, nullable=False),
    Column("deleted_sealed_at", moment),
    CheckConstraint("id = 1", name="one_row"),
)
