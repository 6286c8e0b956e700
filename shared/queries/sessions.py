"""Statements on sessions, refresh tokens and the keys that sign access tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select, case, delete, exists, func, insert, or_, select, update

from shared.tables.callers import callers, memberships, organizations, people
from shared.tables.sessions import refresh_tokens, sessions, signing_keys


def find_session_caller(session_id: UUID, key_id: str | None) -> Select[Any]:
    """Return the caller of a session that stands: the person is enabled and still a member of its organization.

    With `key_id`, the signing key must be accepted still. `version` is the version of the person's rights, and `is_use_due` says
    whether the last use of the session was stored more than a minute ago.
    """
    found = (
        select(
            sessions.c.id,
            sessions.c.person_id,
            sessions.c.organization_id,
            sessions.c.scopes,
            people.c.security_version.label("version"),
            people.c.platform_role,
            memberships.c.role,
            callers.c.id.label("caller_id"),
            callers.c.name.label("caller_name"),
            (sessions.c.last_used_at < func.now() - timedelta(minutes=1)).label("is_use_due"),
        )
        .join(people, people.c.id == sessions.c.person_id)
        .join(organizations, organizations.c.id == sessions.c.organization_id)
        .join(
            memberships,
            (memberships.c.person_id == sessions.c.person_id)
            & (memberships.c.organization_id == sessions.c.organization_id),
        )
        .join(
            callers,
            (callers.c.person_id == sessions.c.person_id) & (callers.c.organization_id == sessions.c.organization_id),
        )
        .where(
            sessions.c.id == session_id,
            sessions.c.ended_at.is_(None),
            sessions.c.expires_at > func.now(),
            people.c.disabled_at.is_(None),
            organizations.c.disabled_at.is_(None),
        )
    )
    if key_id is not None:
        found = found.where(
            exists().where(
                signing_keys.c.id == key_id,
                or_(signing_keys.c.retires_at.is_(None), signing_keys.c.retires_at > func.now()),
            )
        )
    return found


def store_session_use(session_id: UUID, address: str | None) -> Executable:
    """Store that a session is used now from an address, unless a use of the last minute is stored already."""
    return (
        update(sessions)
        .where(sessions.c.id == session_id, sessions.c.last_used_at < func.now() - timedelta(minutes=1))
        .values(last_used_at=func.now(), address=func.coalesce(address, sessions.c.address))
    )


def insert_session(values: dict[str, Any], lifetime: timedelta) -> Executable:
    """Insert a session, which ends after so long without use."""
    return insert(sessions).values(**values, expires_at=func.now() + lifetime)


def insert_refresh_token(sha256: bytes, session_id: UUID) -> Executable:
    """Insert a refresh token."""
    return insert(refresh_tokens).values(sha256=sha256, session_id=session_id)


def lock_refresh_token(sha256: bytes, age_seconds: float) -> Select[Any]:
    """Return a refresh token with its session, and lock both.

    `is_overtaken` says whether it was used after this request arrived, which was `age_seconds` ago: then two requests used it at
    the same time, and neither could know of the other.
    """
    arrived_at = func.clock_timestamp() - timedelta(seconds=age_seconds)
    return (
        select(
            refresh_tokens.c.used_at,
            (refresh_tokens.c.used_at >= arrived_at).label("is_overtaken"),
            sessions.c.id.label("session_id"),
            sessions.c.person_id,
            sessions.c.organization_id,
            ((sessions.c.ended_at.is_(None)) & (sessions.c.expires_at > func.now())).label("is_live"),
        )
        .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
        .where(refresh_tokens.c.sha256 == sha256)
        .with_for_update()
    )


def mark_refresh_token_used(sha256: bytes) -> Executable:
    """Mark a refresh token as used now."""
    return update(refresh_tokens).where(refresh_tokens.c.sha256 == sha256).values(used_at=func.clock_timestamp())


def extend_session(session_id: UUID, days: int, address: str | None, agent: str | None) -> Executable:
    """Extend a session to so many days from now, and store from where it is used.

    One that began with a provider keeps its end, so that the provider is asked again.
    """
    return (
        update(sessions)
        .where(sessions.c.id == session_id)
        .values(
            last_used_at=func.now(),
            expires_at=case(
                (sessions.c.method == "oidc", sessions.c.expires_at), else_=func.now() + timedelta(days=days)
            ),
            address=address,
            agent=agent,
        )
    )


def end_session(session_id: UUID, person_id: UUID | None, reason: str) -> Executable:
    """End a session that has not ended, of a person if one is given. Return its id, person and organization."""
    condition = [sessions.c.id == session_id, sessions.c.ended_at.is_(None)]
    if person_id is not None:
        condition.append(sessions.c.person_id == person_id)
    return (
        update(sessions)
        .where(*condition)
        .values(ended_at=func.now(), end_reason=reason)
        .returning(sessions.c.id, sessions.c.person_id, sessions.c.organization_id)
    )


def end_sessions(person_id: UUID, reason: str, but: UUID | None = None) -> Executable:
    """End every session of a person, except one if it is given. Return their ids."""
    condition = [sessions.c.person_id == person_id, sessions.c.ended_at.is_(None)]
    if but is not None:
        condition.append(sessions.c.id != but)
    return update(sessions).where(*condition).values(ended_at=func.now(), end_reason=reason).returning(sessions.c.id)


def list_sessions(person_id: UUID, before_id: UUID | None, limit: int) -> Select[Any]:
    """List the sessions of a person that have not ended, newest first."""
    found = (
        select(
            sessions.c.id,
            sessions.c.organization_id,
            sessions.c.method,
            sessions.c.address,
            sessions.c.agent,
            sessions.c.created_at,
            sessions.c.last_used_at,
            sessions.c.expires_at,
        )
        .where(sessions.c.person_id == person_id, sessions.c.ended_at.is_(None), sessions.c.expires_at > func.now())
        .order_by(sessions.c.id.desc())
        .limit(limit)
    )
    return found if before_id is None else found.where(sessions.c.id < before_id)


def is_known_address(person_id: UUID, address: str, days: int) -> Select[bool]:
    """Return whether a person had a session from an address in the last days."""
    return select(
        exists().where(
            sessions.c.person_id == person_id,
            sessions.c.address == address,
            sessions.c.last_used_at > func.now() - timedelta(days=days),
        )
    )


def list_signing_keys() -> Select[Any]:
    """List the signing keys that are accepted, the one that signs first."""
    return (
        select(signing_keys)
        .where(or_(signing_keys.c.retires_at.is_(None), signing_keys.c.retires_at > func.now()))
        .order_by(signing_keys.c.retires_at.desc().nulls_first())
    )


def lock_signing_keys() -> Executable:
    """Lock the replacement of the key that signs, until the transaction ends."""
    return select(func.pg_advisory_xact_lock(func.hashtext("taskmill signing keys")))


def find_current_signing_key(days: int) -> Select[Any]:
    """Return the key that signs, and whether it is older than so many days."""
    return select(
        signing_keys.c.id, (signing_keys.c.created_at < func.now() - timedelta(days=days)).label("is_due")
    ).where(signing_keys.c.retires_at.is_(None))


def retire_signing_key(overlap: timedelta) -> Executable:
    """Limit the life of the key that signs to the overlap."""
    return (
        update(signing_keys)
        .where(or_(signing_keys.c.retires_at.is_(None), signing_keys.c.retires_at > func.now() + overlap))
        .values(retires_at=func.now() + overlap)
    )


def insert_signing_key(key_id: str, public_key: bytes, private_key: str) -> Executable:
    """Insert the key that signs from now on."""
    return insert(signing_keys).values(id=key_id, public_key=public_key, private_key=private_key)


def drop_old_signing_keys() -> Executable:
    """Delete signing keys that were retired a day ago."""
    return delete(signing_keys).where(signing_keys.c.retires_at < func.now() - timedelta(days=1))


def drop_old_sessions(limit: int, days: int) -> Executable:
    """Delete up to `limit` sessions that ended or expired so many days ago, with their refresh tokens."""
    old = (
        select(sessions.c.id)
        .where(func.least(sessions.c.expires_at, sessions.c.ended_at) < func.now() - timedelta(days=days))
        .limit(limit)
    )
    return delete(sessions).where(sessions.c.id.in_(old))


def is_recent(session_id: UUID, minutes: int) -> Select[bool]:
    """Return whether a session began less than so many minutes ago."""
    return select(
        exists().where(sessions.c.id == session_id, sessions.c.created_at > func.now() - timedelta(minutes=minutes))
    )
