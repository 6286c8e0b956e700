"""Add the audit log: entries that are never changed, and seals over them.

The older code, which may still run, writes no entries. Triggers refuse changes and deletions, whatever the role; the one
exception is `taskmill_delete_old_seals`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

FUNCTIONS = ("taskmill_refuse_audit_change", "taskmill_note_unsealed", "taskmill_delete_old_seals")
DELETE_OLD_SEALS = "taskmill_delete_old_seals(integer, integer)"

SECURE_FUNCTION = f"""
DO $$ BEGIN
    -- Temporary tables come last, so that none can stand in for a table of the function.
    EXECUTE format('ALTER FUNCTION {DELETE_OLD_SEALS} SET search_path = %I, pg_temp', current_schema());
    REVOKE EXECUTE ON FUNCTION {DELETE_OLD_SEALS} FROM PUBLIC;
END $$
"""

TRIGGERS = """
CREATE TRIGGER audit_entries_note_unsealed AFTER INSERT ON audit_entries FOR EACH ROW EXECUTE FUNCTION taskmill_note_unsealed();
CREATE TRIGGER audit_entries_refuse_change BEFORE UPDATE OR DELETE ON audit_entries FOR EACH ROW
EXECUTE FUNCTION taskmill_refuse_audit_change();
CREATE TRIGGER audit_entries_refuse_truncate BEFORE TRUNCATE ON audit_entries FOR EACH STATEMENT
EXECUTE FUNCTION taskmill_refuse_audit_change();
CREATE TRIGGER audit_seals_refuse_change BEFORE UPDATE OR DELETE ON audit_seals FOR EACH ROW
EXECUTE FUNCTION taskmill_refuse_audit_change();
CREATE TRIGGER audit_seals_refuse_truncate BEFORE TRUNCATE ON audit_seals FOR EACH STATEMENT
EXECUTE FUNCTION taskmill_refuse_audit_change()
"""


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor_type", sa.Text(), nullable=False),
        sa.Column("caller_id", sa.Uuid(), nullable=True),
        sa.Column("person_id", sa.Uuid(), nullable=True),
        sa.Column("api_key_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=True),
        sa.Column("organization_id", sa.Uuid(), nullable=True),
        sa.Column("address", postgresql.INET(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("before", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "actor_type IN ('key', 'person', 'command', 'platform', 'anonymous')",
            name=op.f("ck_audit_entries_known_actor_type"),
        ),
        sa.CheckConstraint(
            "octet_length(before::text) <= 8192 AND octet_length(after::text) <= 8192",
            name=op.f("ck_audit_entries_small_details"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )
    newest_first: sa.ColumnElement[str] = sa.literal_column("id DESC")
    op.create_index("ix_audit_entries_organization", "audit_entries", ["organization_id", newest_first])
    for name, column in (
        ("resource", "resource_id"),
        ("caller", "caller_id"),
        ("person", "person_id"),
        ("key", "api_key_id"),
    ):
        condition = sa.text(f"{column} IS NOT NULL")
        op.create_index(f"ix_audit_entries_{name}", "audit_entries", [column, newest_first], postgresql_where=condition)
    op.create_index(
        "ix_audit_entries_request",
        "audit_entries",
        ["request_id"],
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.create_table(
        "audit_unsealed",
        sa.Column("entry_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("entry_id", name=op.f("pk_audit_unsealed")),
    )
    op.create_table(
        "audit_seals",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("entry_ids", sa.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("entries_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("previous_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("cardinality(entry_ids) >= 1", name=op.f("ck_audit_seals_has_entries")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_seals")),
    )
    op.create_table(
        "audit_chain",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("last_number", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("deleted_number", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("deleted_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("deleted_sealed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_chain_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_chain")),
    )
    op.execute("INSERT INTO audit_chain (id, last_sha256, deleted_sha256) VALUES (1, '', '')")
    for statement in (*define_functions(revision, *FUNCTIONS), SECURE_FUNCTION, *TRIGGERS.split(";\n")):
        op.execute(statement)


def downgrade() -> None:
    for table in ("audit_chain", "audit_seals", "audit_unsealed", "audit_entries"):
        op.drop_table(table)
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
