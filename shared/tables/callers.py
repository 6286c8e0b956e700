"""Tables of organizations, the people and callers in them, and their API keys."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import CIDR

from shared.tables.base import metadata

moment = DateTime(timezone=True)

organizations = Table(
    "organizations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("disabled_at", moment),
    # How many of its tasks start for one of an organization of weight 1, while both have a backlog.
    Column("weight", SmallInteger, nullable=False, server_default="1"),
    CheckConstraint("weight BETWEEN 1 AND 100", name="weight"),
)

people = Table(
    "people",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("email", Text, nullable=False),
    # The address as it is compared: two people never have the same one.
    Column("email_key", Text, nullable=False, unique=True),
    Column("name", Text),
    Column("password_hash", Text),
    Column("platform_role", Text),
    # Raised when what the person may do changes, or when every session has to end.
    Column("security_version", Integer, nullable=False, server_default="1"),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("email_verified_at", moment),
    Column("disabled_at", moment),
    CheckConstraint("platform_role IN ('operator', 'admin')", name="known_platform_role"),
)

memberships = Table(
    "memberships",
    metadata,
    Column("person_id", Uuid, ForeignKey("people.id", ondelete="CASCADE"), primary_key=True),
    Column("organization_id", Uuid, ForeignKey("organizations.id"), primary_key=True),
    Column("role", Text, nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    CheckConstraint("role IN ('viewer', 'client', 'operator', 'admin')", name="known_role"),
    Index("ix_memberships_organization_id", "organization_id"),
)

# A service, or a person in one organization: the owner of tasks and files.
callers = Table(
    "callers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("organization_id", Uuid, ForeignKey("organizations.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    # A person's keys are valid only as long as the person is a member, so a person who has callers is not simply deleted.
    Column("person_id", Uuid, ForeignKey("people.id")),
    Index(
        "ix_callers_person_id",
        "person_id",
        "organization_id",
        unique=True,
        postgresql_where=text("person_id IS NOT NULL"),
    ),
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
    # The platform role, by an older name: `client` is none. So keys of the time before organization roles keep their reach.
    Column("role", Text, nullable=False),
    # The role in the organization of the caller. Null in keys of that time: the role is then that of `role`.
    Column("organization_role", Text),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("expires_at", moment),
    Column("revoked_at", moment),
    Column("last_used_at", moment),
    # The network of the last use, shortened to /24 or /64.
    Column("last_used_network", CIDR),
    # The networks from which the key is accepted; null for all.
    Column("networks", ARRAY(CIDR)),
    # Who made the key: a caller, or null for a command. And the key that this one replaces.
    Column("created_by", Uuid, ForeignKey("callers.id")),
    Column("replaces_id", Uuid, ForeignKey("api_keys.id")),
    CheckConstraint("role IN ('client', 'operator', 'admin')", name="known_role"),
    CheckConstraint("organization_role IN ('viewer', 'client', 'operator', 'admin')", name="known_organization_role"),
    Index("ix_api_keys_caller_id", "caller_id"),
    CheckConstraint("length(sha256) = 32", name="sha256"),
)
