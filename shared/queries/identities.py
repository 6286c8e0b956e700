"""Statements on signing in with a provider: the identities of people, and the sign-ins that have not come back yet."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select, delete, func, insert, select, update

from shared.tables.callers import memberships, organizations
from shared.tables.sessions import identities, provider_requests


def insert_provider_request(values: dict[str, Any], seconds: int) -> Executable:
    """Insert a sign-in that is sent to the provider, and that must come back in so many seconds."""
    return insert(provider_requests).values(**values, expires_at=func.now() + timedelta(seconds=seconds))


def take_provider_request(sha256: bytes) -> Executable:
    """Delete a sign-in that has come back, and return it if it came in time. It comes back once."""
    return (
        delete(provider_requests)
        .where(provider_requests.c.sha256 == sha256, provider_requests.c.expires_at > func.now())
        .returning(provider_requests.c.organization, provider_requests.c.scopes, provider_requests.c.return_to)
    )


def drop_old_provider_requests(limit: int) -> Executable:
    """Delete up to `limit` sign-ins that expired before they came back."""
    old = select(provider_requests.c.sha256).where(provider_requests.c.expires_at < func.now()).limit(limit)
    return delete(provider_requests).where(provider_requests.c.sha256.in_(old))


def lock_identities() -> Executable:
    """Take the lock under which identities are inserted, until the transaction ends."""
    return select(func.pg_advisory_xact_lock(func.hashtext("taskmill identities")))


def use_identity(issuer: str, subject: str) -> Executable:
    """Store that an identity is used now, and return its person."""
    return (
        update(identities)
        .where(identities.c.issuer == issuer, identities.c.subject == subject)
        .values(last_used_at=func.now())
        .returning(identities.c.person_id)
    )


def find_identity_of(person_id: UUID, issuer: str) -> Select[Any]:
    """Return the identity that a person has with an issuer."""
    return select(identities.c.subject).where(identities.c.person_id == person_id, identities.c.issuer == issuer)


def insert_identity(issuer: str, subject: str, person_id: UUID) -> Executable:
    """Insert an identity."""
    return insert(identities).values(issuer=issuer, subject=subject, person_id=person_id)


def delete_identities(person_id: UUID) -> Executable:
    """Delete every identity of a person."""
    return delete(identities).where(identities.c.person_id == person_id)


def list_roles_by_name(person_id: UUID, names: list[str]) -> Select[Any]:
    """List the roles that a person has in the organizations of these names."""
    return (
        select(organizations.c.id, organizations.c.name, memberships.c.role)
        .join(memberships, memberships.c.organization_id == organizations.c.id)
        .where(memberships.c.person_id == person_id, organizations.c.name.in_(names))
    )
