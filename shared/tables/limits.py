"""The table of limits: what an organization or a caller may use at most.

The limit of an organization or a caller is its own row, or else the default row of its scope, or else none. Default rows are
those of `DEFAULT_SUBJECT`: each API process stores there what the settings say. A row whose `amount` and `allowed` are NULL
means that there is no limit, whatever the default is.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Column, DateTime, Index, Table, Text, Uuid, func, text

from shared.tables.base import metadata

DEFAULT_SUBJECT: Final = UUID(int=0)
"""The `subject_id` of the limits of organizations and callers that have no row of their own."""

limits = Table(
    "limits",
    metadata,
    # An organization or a caller, or `DEFAULT_SUBJECT`.
    Column("subject_id", Uuid, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    # For `running_by_queue` a queue, for `running_by_kind` a kind, for `requests_per_minute` a class of routes; else empty.
    Column("target", Text, primary_key=True, server_default=""),
    Column("amount", BigInteger),
    # For `senders`: addresses, and domains with an @ before them.
    Column("allowed", ARRAY(Text)),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("scope IN ('organization', 'caller')", name="known_scope"),
    CheckConstraint(
        "name IN ('tasks_per_day', 'live_tasks', 'running', 'running_by_queue', 'running_by_kind', 'stored_bytes', "
        "'upload_bytes', 'retention_seconds', 'report_rows', 'emails_per_day', 'recipients_per_day', 'senders', "
        "'requests_per_minute')",
        name="known_name",
    ),
    CheckConstraint(
        "(target <> '') = (name IN ('running_by_queue', 'running_by_kind', 'requests_per_minute'))", name="target"
    ),
    CheckConstraint("amount >= 0", name="amount"),
    CheckConstraint(
        "CASE WHEN name = 'senders' THEN amount IS NULL ELSE allowed IS NULL END", name="amount_or_allowed"
    ),
    # The limits that the relay reads: without one, it reads nothing.
    Index(
        "ix_limits_running",
        "scope",
        "subject_id",
        "name",
        "target",
        postgresql_where=text("name IN ('running', 'running_by_queue', 'running_by_kind')"),
    ),
)
