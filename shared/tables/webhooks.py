"""Tables of webhooks: endpoints, deliveries and their tries, and what follows when a task ends."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables.base import metadata

moment = DateTime(timezone=True)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("organization_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("event_types", ARRAY(Text), nullable=False),
    # An empty list matches every kind, or every task whatever its tags.
    Column("kinds", ARRAY(Text), nullable=False, server_default="{}"),
    Column("tags", ARRAY(Text), nullable=False, server_default="{}"),
    Column("enabled", Boolean, nullable=False, server_default="true"),
    # Why the platform disabled it; NULL if it did not.
    Column("disabled_reason", Text),
    Column("secret", Text, nullable=False),
    Column("previous_secret", Text),
    Column("previous_secret_until", moment),
    # Since when no delivery has succeeded; NULL after a success, and before the first failure.
    Column("failing_since", moment),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("updated_at", moment, nullable=False, server_default=func.now()),
    CheckConstraint("cardinality(event_types) >= 1", name="has_event_types"),
    CheckConstraint("disabled_reason IN ('gone', 'failing')", name="known_disabled_reason"),
    CheckConstraint("disabled_reason IS NULL OR NOT enabled", name="enabled_without_reason"),
    CheckConstraint("(previous_secret IS NULL) = (previous_secret_until IS NULL)", name="previous_secret_has_an_end"),
    Index("ix_webhook_endpoints_organization", "organization_id", text("id DESC")),
)

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("organization_id", Uuid, primary_key=True),
    Column("secret", Text, nullable=False),
    Column("previous_secret", Text),
    Column("previous_secret_until", moment),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    CheckConstraint("(previous_secret IS NULL) = (previous_secret_until IS NULL)", name="previous_secret_has_an_end"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("organization_id", Uuid, nullable=False),
    Column("endpoint_id", Uuid, ForeignKey("webhook_endpoints.id", ondelete="CASCADE")),
    # The task that ended; NULL for other events.
    Column("task_id", Uuid),
    Column("event_type", Text, nullable=False),
    Column("event_at", moment, nullable=False, server_default=func.now()),
    # The body's `data`; NULL once it was erased with its task.
    Column("data", JSON),
    # URL and secret of the webhook of one submission; NULL for that of an endpoint. Without a secret, the default one signs.
    Column("url", Text),
    Column("secret", Text),
    # Whose deliveries are bounded together: the endpoint, or the origin of the URL within its organization.
    Column("receiver_id", Uuid, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("next_try_at", moment),
    Column("give_up_at", moment, nullable=False),
    # The task that sends it.
    Column("send_task_id", Uuid),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("finished_at", moment),
    CheckConstraint("state IN ('pending', 'waiting', 'sending', 'delivered', 'failed')", name="known_state"),
    CheckConstraint("(state IN ('delivered', 'failed')) = (finished_at IS NOT NULL)", name="finished_iff_done"),
    CheckConstraint("(endpoint_id IS NULL) = (url IS NOT NULL)", name="endpoint_or_url"),
    Index("ix_webhook_deliveries_organization", "organization_id", text("id DESC")),
    Index("ix_webhook_deliveries_endpoint", "endpoint_id", text("id DESC")),
    Index("ix_webhook_deliveries_task", "task_id", postgresql_where=text("task_id IS NOT NULL")),
    Index("ix_webhook_deliveries_live", "receiver_id", "state", "id", postgresql_where=text("finished_at IS NULL")),
    Index("ix_webhook_deliveries_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
)

webhook_tries = Table(
    "webhook_tries",
    metadata,
    Column("delivery_id", Uuid, ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("started_at", moment, nullable=False, server_default=func.clock_timestamp()),
    Column("duration_ms", Integer),
    Column("status", SmallInteger),
    # Why there is no answer, as a word for programs and a sentence; NULL if there is one.
    Column("error", Text),
    Column("detail", Text),
    # The beginning of the answer's body.
    Column("answer", Text),
)

# Receivers whose last try timed out or took two seconds or more: they share a few slots.
slow_receivers = Table(
    "slow_receivers",
    metadata,
    Column("receiver_id", Uuid, primary_key=True),
    Column("last_try_at", moment, nullable=False, server_default=func.now()),
)

task_follow_ups = Table(
    "task_follow_ups",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    Column("webhook_url", Text),
    Column("webhook_secret", Text),
    # {"on": [statuses], "submission": the row of an email task without its subject and text}
    Column("notify", JSONB(none_as_null=True)),
)
