"""Statements on organizations, callers and API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, Select, exists, func, select
from sqlalchemy.dialects.postgresql import insert

from shared.tables.callers import api_keys, callers, memberships, organizations, people

NO_PLATFORM_ROLE: Final = "client"
"""What `api_keys.role`, the platform role by an older name, contains in keys without one."""
ROLE: Final = func.coalesce(api_keys.c.organization_role, api_keys.c.role)
"""The role of a key in its organization. Keys of the time before organization roles have none stored."""
PLATFORM_ROLE: Final = func.nullif(api_keys.c.role, NO_PLATFORM_ROLE)


def ensure_organization(organization_id: UUID, name: str) -> Executable:
    """Insert an organization unless there is one of that name; return its id either way."""
    return (
        insert(organizations)
        .values(id=organization_id, name=name)
        .on_conflict_do_update(index_elements=["name"], set_={"name": name})
        .returning(organizations.c.id)
    )


def lock_organization(organization_id: UUID) -> Executable:
    """Lock an organization until the transaction ends, so that no two transactions insert the same caller."""
    return select(organizations.c.id).where(organizations.c.id == organization_id).with_for_update()


def find_caller(organization_id: UUID, name: str) -> Select[UUID]:
    """Return a caller's id by name."""
    return select(callers.c.id).where(callers.c.organization_id == organization_id, callers.c.name == name)


def insert_caller(caller_id: UUID, organization_id: UUID, name: str) -> Executable:
    """Insert a caller."""
    return insert(callers).values(id=caller_id, organization_id=organization_id, name=name)


def insert_api_key(
    key_id: UUID,
    caller_id: UUID,
    name: str,
    prefix: str,
    sha256: bytes,
    organization_role: str,
    platform_role: str | None,
    scopes: list[str],
    expires_at: datetime | None,
) -> Executable:
    """Insert a key."""
    return insert(api_keys).values(
        id=key_id,
        caller_id=caller_id,
        name=name,
        prefix=prefix,
        sha256=sha256,
        role=platform_role or NO_PLATFORM_ROLE,
        organization_role=organization_role,
        scopes=scopes,
        expires_at=expires_at,
    )


def find_api_key(prefix: str, last_use_seconds: float) -> Select[Any]:
    """Return a key that is neither revoked nor expired: id and name, caller, organization, roles, scopes, digest.

    The key of a person has the person's roles too, and is not found unless the person is a member of the organization. A key
    of a disabled organization or person is not found. `is_last_use_due` says whether its last use is not stored, or was stored
    more than `last_use_seconds` ago.
    """
    return (
        select(
            api_keys.c.id,
            api_keys.c.name,
            api_keys.c.caller_id,
            callers.c.name.label("caller_name"),
            callers.c.person_id,
            callers.c.organization_id,
            ROLE.label("role"),
            PLATFORM_ROLE.label("platform_role"),
            memberships.c.role.label("member_role"),
            people.c.platform_role.label("person_platform_role"),
            api_keys.c.scopes,
            api_keys.c.sha256,
            _is_last_use_due(last_use_seconds).label("is_last_use_due"),
        )
        .join(callers, callers.c.id == api_keys.c.caller_id)
        .join(organizations, organizations.c.id == callers.c.organization_id)
        .outerjoin(people, people.c.id == callers.c.person_id)
        .outerjoin(
            memberships,
            (memberships.c.person_id == callers.c.person_id)
            & (memberships.c.organization_id == callers.c.organization_id),
        )
        .where(
            api_keys.c.prefix == prefix,
            api_keys.c.revoked_at.is_(None),
            api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > func.now()),
            organizations.c.disabled_at.is_(None),
            people.c.disabled_at.is_(None),
            callers.c.person_id.is_(None) | memberships.c.role.is_not(None),
        )
    )


def store_last_use(key_id: UUID, last_use_seconds: float) -> Executable:
    """Store that a key is used now, unless a use of the last `last_use_seconds` is stored already."""
    return (
        api_keys.update()
        .where(api_keys.c.id == key_id, _is_last_use_due(last_use_seconds))
        .values(last_used_at=func.now())
    )


def _is_last_use_due(last_use_seconds: float) -> ColumnElement[bool]:
    oldest = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, last_use_seconds)
    return api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < oldest)


def has_api_key(prefix: str) -> Select[bool]:
    """Return whether a key of that prefix was ever stored, revoked ones too."""
    return select(exists().where(api_keys.c.prefix == prefix))


def list_api_keys() -> Select[Any]:
    """List every key, oldest first."""
    return (
        select(
            api_keys.c.id,
            api_keys.c.prefix,
            api_keys.c.name,
            organizations.c.name.label("organization"),
            ROLE.label("role"),
            PLATFORM_ROLE.label("platform_role"),
            api_keys.c.scopes,
            api_keys.c.created_at,
            api_keys.c.last_used_at,
            api_keys.c.expires_at,
            api_keys.c.revoked_at,
        )
        .join(callers, callers.c.id == api_keys.c.caller_id)
        .join(organizations, organizations.c.id == callers.c.organization_id)
        .order_by(api_keys.c.id)
    )


def revoke_api_key(id_or_prefix: UUID | str) -> Executable:
    """Revoke a key that is not revoked yet. Returns its id, and the organization of its caller."""
    column = api_keys.c.id if isinstance(id_or_prefix, UUID) else api_keys.c.prefix
    return (
        api_keys.update()
        .where(column == id_or_prefix, api_keys.c.revoked_at.is_(None), callers.c.id == api_keys.c.caller_id)
        .values(revoked_at=func.now())
        .returning(api_keys.c.id, callers.c.organization_id)
    )
