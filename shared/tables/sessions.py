"""Tables of how people sign in: their sessions, second factors, invitations and one-use tokens, and the keys that sign tokens."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables.base import metadata

moment = DateTime(timezone=True)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("person_id", Uuid, ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    # The organization for which its access tokens are.
    Column("organization_id", Uuid, ForeignKey("organizations.id", ondelete="CASCADE"), nullable=False),
    # The scopes that were asked for; NULL for all that the roles allow.
    Column("scopes", ARRAY(Text)),
    Column("method", Text, nullable=False),
    Column("address", Text),
    Column("agent", Text),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("last_used_at", moment, nullable=False, server_default=func.now()),
    Column("expires_at", moment, nullable=False),
    Column("ended_at", moment),
    Column("end_reason", Text),
    CheckConstraint("method IN ('password', 'totp', 'recovery_code', 'oidc')", name="known_method"),
    CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended_for_a_reason"),
    Index("ix_sessions_person_id", "person_id", text("id DESC")),
    Index("ix_sessions_expires_at", "expires_at"),
)

# Every refresh token of a session, so that the reuse of one is seen.
refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("sha256", LargeBinary, primary_key=True),
    Column("session_id", Uuid, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("used_at", moment),
    CheckConstraint("length(sha256) = 32", name="sha256"),
    Index("ix_refresh_tokens_session_id", "session_id"),
)

second_factors = Table(
    "second_factors",
    metadata,
    Column("person_id", Uuid, ForeignKey("people.id", ondelete="CASCADE"), primary_key=True),
    # The secret of TOTP, encrypted.
    Column("secret", Text, nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    # NULL until a code has shown that the app has the secret.
    Column("confirmed_at", moment),
    # The step of the last accepted code: only codes of later steps are accepted.
    Column("last_step", BigInteger, nullable=False, server_default="0"),
)

recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("person_id", Uuid, ForeignKey("people.id", ondelete="CASCADE"), primary_key=True),
    Column("sha256", LargeBinary, primary_key=True),
    Column("used_at", moment),
    CheckConstraint("length(sha256) = 32", name="sha256"),
)

invitations = Table(
    "invitations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("email", Text, nullable=False),
    Column("email_key", Text, nullable=False),
    Column("organization_id", Uuid, ForeignKey("organizations.id", ondelete="CASCADE"), nullable=False),
    Column("role", Text, nullable=False),
    # NULL until the email was sent, which contains the token.
    Column("sha256", LargeBinary, unique=True),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("expires_at", moment, nullable=False),
    Column("accepted_at", moment),
    Column("accepted_by", Uuid, ForeignKey("people.id", ondelete="SET NULL")),
    CheckConstraint("role IN ('viewer', 'client', 'operator', 'admin')", name="known_role"),
    Index("ix_invitations_email_key", "email_key"),
    Index("ix_invitations_expires_at", "expires_at"),
)

# Tokens that are used once: to choose a new password, to verify an address, and to finish a sign-in with a second factor.
person_tokens = Table(
    "person_tokens",
    metadata,
    Column("sha256", LargeBinary, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("person_id", Uuid, ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    Column("data", JSONB(none_as_null=True)),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("expires_at", moment, nullable=False),
    Column("used_at", moment),
    Column("tries", Integer, nullable=False, server_default="0"),
    CheckConstraint("purpose IN ('reset', 'verify', 'challenge')", name="known_purpose"),
    CheckConstraint("length(sha256) = 32", name="sha256"),
    Index("ix_person_tokens_person_id", "person_id"),
    Index("ix_person_tokens_expires_at", "expires_at"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    # Encrypted.
    Column("private_key", Text, nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    # When tokens that it signed are no longer accepted; NULL for the key that signs.
    Column("retires_at", moment),
    Index("ix_signing_keys_current", text("(true)"), unique=True, postgresql_where=text("retires_at IS NULL")),
)

# How often a password was tried for an account, from a network, and for an account from a network, in the current window.
sign_in_attempts = Table(
    "sign_in_attempts",
    metadata,
    Column("subject", LargeBinary, primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("since", moment, nullable=False),
    Index("ix_sign_in_attempts_since", "since"),
)

# The identities by which people sign in with a provider. The subject is what the issuer calls the person, and never changes.
identities = Table(
    "identities",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("person_id", Uuid, ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("last_used_at", moment, nullable=False, server_default=func.now()),
    # A second subject for the same person would be somebody who has got the address of another.
    UniqueConstraint("person_id", "issuer"),
)

# Sign-ins that were sent to the provider and have not come back, by the digest of what only the browser knows.
provider_requests = Table(
    "provider_requests",
    metadata,
    Column("sha256", LargeBinary, primary_key=True),
    Column("organization", Text),
    Column("scopes", ARRAY(Text)),
    # The path to which the browser is sent at the end; NULL to answer the tokens.
    Column("return_to", Text),
    Column("expires_at", moment, nullable=False),
    CheckConstraint("length(sha256) = 32", name="sha256"),
    Index("ix_provider_requests_expires_at", "expires_at"),
)
