"""Tables of the sending of emails: intents, stored before a message is sent, and receipts, stored after.

An intent without a receipt for one of its recipients means that it is unknown whether the mail server accepted the message
for that recipient: the process or the connection ended between the first byte of the message and the reply of the server.
"""

from __future__ import annotations

from sqlalchemy import (
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
)
from sqlalchemy.dialects.postgresql import ARRAY

from shared.tables.base import metadata

MAX_STORED_REPLY_CHARACTERS = 500
"""Characters of a server's reply that are kept."""

email_intents = Table(
    "email_intents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("task_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("recipients", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Set when a caller retries the task: recipients of this intent whose outcome is unknown may then be sent to again.
    Column("given_up_at", DateTime(timezone=True)),
    CheckConstraint("attempt >= 1", name="attempt_is_positive"),
    CheckConstraint("cardinality(recipients) BETWEEN 1 AND 150", name="recipients_are_bounded"),
    Index(None, "task_id"),
)

email_receipts = Table(
    "email_receipts",
    metadata,
    Column("intent_id", Uuid, ForeignKey(email_intents.c.id, ondelete="CASCADE"), primary_key=True),
    Column("recipient", Text, primary_key=True),
    Column("task_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("code", SmallInteger),
    Column("reply", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("status IN ('accepted', 'rejected', 'deferred')", name="status_is_known"),
    CheckConstraint("code BETWEEN 200 AND 599", name="code_is_a_reply_code"),
    CheckConstraint("status <> 'accepted' OR coalesce(code, 0) BETWEEN 200 AND 299", name="acceptance_has_its_code"),
    CheckConstraint(f"char_length(reply) <= {MAX_STORED_REPLY_CHARACTERS}", name="reply_is_bounded"),
    Index(None, "task_id"),
)
