"""Statements on organizations, callers and API keys."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select, exists, func, select
from sqlalchemy.dialects.postgresql import insert

from shared.tables.callers import api_keys, callers, organizations


def ensure_organization(organization_id: UUID, name: str) -> Executable:
    """Make an organization unless one bears the name; give its id either way."""
    return (
        insert(organizations)
        .values(id=organization_id, name=name)
        .on_conflict_do_update(index_elements=["name"], set_={"name": name})
        .returning(organizations.c.id)
    )


def lock_organization(organization_id: UUID) -> Executable:
    """Hold an organization until the transaction ends, so that a caller is made once."""
    return select(organizations.c.id).where(organizations.c.id == organization_id).with_for_update()


def find_caller(organization_id: UUID, name: str) -> Select[UUID]:
    """Find a caller's id by name."""
    return select(callers.c.id).where(callers.c.organization_id == organization_id, callers.c.name == name)


def insert_caller(caller_id: UUID, organization_id: UUID, name: str) -> Executable:
    """Make a caller."""
    return insert(callers).values(id=caller_id, organization_id=organization_id, name=name)


def insert_api_key(
    key_id: UUID, caller_id: UUID, name: str, prefix: str, sha256: bytes, role: str, scopes: list[str]
) -> Executable:
    """Store a key."""
    return insert(api_keys).values(
        id=key_id, caller_id=caller_id, name=name, prefix=prefix, sha256=sha256, role=role, scopes=scopes
    )


def find_api_key(prefix: str) -> Select[Any]:
    """Find a key that may be used: its id, caller, organization, role, scopes and digest."""
    return (
        select(
            api_keys.c.id,
            api_keys.c.caller_id,
            callers.c.organization_id,
            api_keys.c.role,
            api_keys.c.scopes,
            api_keys.c.sha256,
        )
        .join(callers, callers.c.id == api_keys.c.caller_id)
        .where(
            api_keys.c.prefix == prefix,
            api_keys.c.revoked_at.is_(None),
            api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > func.now()),
        )
    )


def has_api_key(prefix: str) -> Select[bool]:
    """Tell whether a key of that prefix was ever stored, revoked ones too."""
    return select(exists().where(api_keys.c.prefix == prefix))


def list_api_keys() -> Select[Any]:
    """List every key, oldest first."""
    return (
        select(
            api_keys.c.id,
            api_keys.c.prefix,
            api_keys.c.name,
            organizations.c.name.label("organization"),
            api_keys.c.role,
            api_keys.c.scopes,
            api_keys.c.created_at,
            api_keys.c.expires_at,
            api_keys.c.revoked_at,
        )
        .join(callers, callers.c.id == api_keys.c.caller_id)
        .join(organizations, organizations.c.id == callers.c.organization_id)
        .order_by(api_keys.c.id)
    )


def revoke_api_key(id_or_prefix: UUID | str) -> Executable:
    """Revoke a key that is not revoked yet."""
    column = api_keys.c.id if isinstance(id_or_prefix, UUID) else api_keys.c.prefix
    return (
        api_keys.update().where(column == id_or_prefix, api_keys.c.revoked_at.is_(None)).values(revoked_at=func.now())
    )
