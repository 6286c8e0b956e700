"""Tables of organizations, the callers in them, and their API keys."""

from __future__ import annotations

from sqlalchemy import ARRAY, CheckConstraint, Column, DateTime, ForeignKey, LargeBinary, Table, Text, Uuid, func

from shared.tables.base import metadata

moment = DateTime(timezone=True)

organizations = Table(
    "organizations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", moment, nullable=False, server_default=func.now()),
)

callers = Table(
    "callers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("organization_id", Uuid, ForeignKey("organizations.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("caller_id", Uuid, ForeignKey("callers.id"), nullable=False),
    Column("name", Text, nullable=False),
    # The row is found by the prefix, which may be shown. Of the key itself, only the SHA-256 is stored.
    Column("prefix", Text, nullable=False, unique=True),
    Column("sha256", LargeBinary, nullable=False),
    Column("role", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("expires_at", moment),
    Column("revoked_at", moment),
    Column("last_used_at", moment),
    CheckConstraint("role IN ('client', 'operator', 'admin')", name="known_role"),
    CheckConstraint("length(sha256) = 32", name="sha256"),
)
