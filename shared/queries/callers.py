"""Statements on organizations, callers and API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
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


def find_service(organization_id: UUID, name: str) -> Select[UUID]:
    """Return the id of the caller of that name who is no person."""
    return select(callers.c.id).where(
        callers.c.organization_id == organization_id, callers.c.name == name, callers.c.person_id.is_(None)
    )


def insert_caller(caller_id: UUID, organization_id: UUID, name: str) -> Executable:
    """Insert a caller."""
    return insert(callers).values(id=caller_id, organization_id=organization_id, name=name)


class Grant(Protocol):
    """What a key may do, until when, and from where."""

    @property
    def role(self) -> str: ...
    @property
    def platform_role(self) -> str | None: ...
    @property
    def scopes(self) -> Sequence[str]: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def networks(self) -> Sequence[object] | None: ...


def insert_api_key(values: Mapping[str, Any], grant: Grant) -> Executable:
    """Insert a key with its columns and its grant."""
    return insert(api_keys).values(
        **values,
        role=grant.platform_role or NO_PLATFORM_ROLE,
        organization_role=grant.role,
        scopes=list(grant.scopes),
        expires_at=grant.expires_at,
        networks=None if grant.networks is None else [str(network) for network in grant.networks],
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
            api_keys.c.networks,
            api_keys.c.expires_at,
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


def store_last_use(key_id: UUID, network: str | None, last_use_seconds: float) -> Executable:
    """Store that a key is used now from a network, unless a use of the last `last_use_seconds` is stored already."""
    return (
        api_keys.update()
        .where(api_keys.c.id == key_id, _is_last_use_due(last_use_seconds))
        .values(last_used_at=func.now(), last_used_network=network)
    )


def _is_last_use_due(last_use_seconds: float) -> ColumnElement[bool]:
    oldest = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, last_use_seconds)
    return api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < oldest)


def has_api_key(prefix: str) -> Select[bool]:
    """Return whether a key of that prefix was ever stored, revoked ones too."""
    return select(exists().where(api_keys.c.prefix == prefix))


KEY_ID: Final = api_keys.c.id


def select_api_keys() -> Select[Any]:
    """Return every key with its caller and organization, in no order, without its secret."""
    return (
        select(
            api_keys.c.id,
            api_keys.c.prefix,
            api_keys.c.name,
            api_keys.c.caller_id,
            callers.c.name.label("caller_name"),
            callers.c.person_id,
            callers.c.organization_id,
            organizations.c.name.label("organization"),
            ROLE.label("role"),
            PLATFORM_ROLE.label("platform_role"),
            api_keys.c.scopes,
            api_keys.c.networks,
            api_keys.c.created_at,
            api_keys.c.created_by,
            api_keys.c.replaces_id,
            api_keys.c.last_used_at,
            api_keys.c.last_used_network,
            api_keys.c.expires_at,
            api_keys.c.revoked_at,
        )
        .join(callers, callers.c.id == api_keys.c.caller_id)
        .join(organizations, organizations.c.id == callers.c.organization_id)
    )


def list_api_keys(
    organization_id: UUID | None, caller_id: UUID | None, before_id: UUID | None, limit: int
) -> Select[Any]:
    """Return keys, newest first: of one organization, and of one caller, unless these are None."""
    statement = select_api_keys()
    if organization_id is not None:
        statement = statement.where(callers.c.organization_id == organization_id)
    if caller_id is not None:
        statement = statement.where(api_keys.c.caller_id == caller_id)
    if before_id is not None:
        statement = statement.where(api_keys.c.id < before_id)
    return statement.order_by(api_keys.c.id.desc()).limit(limit)


def get_api_key(key_id: UUID) -> Select[Any]:
    """Return a key by its id."""
    return select_api_keys().where(api_keys.c.id == key_id)


def lock_api_key(id_or_prefix: UUID | str) -> Select[Any]:
    """Return a key by its id or prefix, and lock it until the transaction ends."""
    column = api_keys.c.id if isinstance(id_or_prefix, UUID) else api_keys.c.prefix
    return select_api_keys().where(column == id_or_prefix).with_for_update(of=api_keys)


def revoke_api_key(key_id: UUID) -> Executable:
    """Revoke a key that is not revoked yet."""
    return (
        api_keys.update().where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=func.now())
    )


def end_api_key(key_id: UUID, overlap: timedelta) -> Executable:
    """Limit the life of a key to a time from now, unless it expires earlier. `least` ignores a null."""
    return (
        api_keys.update()
        .where(api_keys.c.id == key_id)
        .values(expires_at=func.least(api_keys.c.expires_at, func.now() + overlap))
    )


def count_valid_keys(caller_id: UUID) -> Select[int]:
    """Return how many keys of a caller are neither revoked nor expired."""
    return select(func.count()).where(
        api_keys.c.caller_id == caller_id,
        api_keys.c.revoked_at.is_(None),
        api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > func.now()),
    )
