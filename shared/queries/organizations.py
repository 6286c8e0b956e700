"""Statements on organizations and their members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select, exists, func, select, text
from sqlalchemy.dialects.postgresql import insert

from shared.tables.callers import api_keys, callers, memberships, organizations, people

_COLUMNS = (
    organizations.c.id,
    organizations.c.name,
    organizations.c.created_at,
    organizations.c.disabled_at,
    organizations.c.weight,
)


def insert_organization(organization_id: UUID, name: str) -> Executable:
    """Insert an organization unless there is one of that name; return it if it was inserted."""
    return (
        insert(organizations)
        .values(id=organization_id, name=name)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(*_COLUMNS)
    )


def list_organizations(only_id: UUID | None, before_id: UUID | None, limit: int) -> Select[Any]:
    """Return organizations, newest first; only one of them if its id is given."""
    statement = select(*_COLUMNS)
    if only_id is not None:
        statement = statement.where(organizations.c.id == only_id)
    if before_id is not None:
        statement = statement.where(organizations.c.id < before_id)
    return statement.order_by(organizations.c.id.desc()).limit(limit)


def find_organization(organization_id: UUID) -> Select[Any]:
    """Return an organization."""
    return select(*_COLUMNS).where(organizations.c.id == organization_id)


def has_enabled_organization(organization_id: UUID) -> Select[bool]:
    """Return whether there is an organization that is not disabled."""
    return select(exists().where(organizations.c.id == organization_id, organizations.c.disabled_at.is_(None)))


def lock_organization(organization_id: UUID) -> Select[Any]:
    """Return an organization and lock it, so that no two transactions change it or its members at the same time."""
    return find_organization(organization_id).with_for_update()


def change_organization(organization_id: UUID, values: Mapping[str, Any]) -> Executable:
    """Change an organization and return it. A `disabled_at` of True stands for now."""
    changes = dict(values)
    if changes.get("disabled_at") is True:
        changes["disabled_at"] = func.now()
    return organizations.update().where(organizations.c.id == organization_id).values(changes).returning(*_COLUMNS)


def list_members(organization_id: UUID, before_id: UUID | None, limit: int) -> Select[Any]:
    """Return the members of an organization, the newest person first."""
    statement = _members(organization_id)
    if before_id is not None:
        statement = statement.where(people.c.id < before_id)
    return statement.order_by(people.c.id.desc()).limit(limit)


def find_member(organization_id: UUID, person_id: UUID) -> Select[Any]:
    """Return a member of an organization."""
    return _members(organization_id).where(people.c.id == person_id)


def _members(organization_id: UUID) -> Select[Any]:
    return (
        select(
            people.c.id,
            people.c.email,
            people.c.name,
            people.c.disabled_at,
            memberships.c.role,
            memberships.c.created_at,
            callers.c.id.label("caller_id"),
        )
        .join(memberships, memberships.c.person_id == people.c.id)
        .outerjoin(
            callers,
            (callers.c.person_id == people.c.id) & (callers.c.organization_id == memberships.c.organization_id),
        )
        .where(memberships.c.organization_id == organization_id)
    )


def insert_membership(person_id: UUID, organization_id: UUID, role: str) -> Executable:
    """Insert a membership unless there is one; return a row if it was inserted."""
    return (
        insert(memberships)
        .values(person_id=person_id, organization_id=organization_id, role=role)
        .on_conflict_do_nothing()
        .returning(memberships.c.person_id)
    )


def change_member_role(organization_id: UUID, person_id: UUID, role: str) -> Executable:
    """Change the role of a member."""
    return memberships.update().where(*_membership(organization_id, person_id)).values(role=role)


def delete_membership(organization_id: UUID, person_id: UUID) -> Executable:
    """Delete a membership."""
    return memberships.delete().where(*_membership(organization_id, person_id))


def _membership(organization_id: UUID, person_id: UUID) -> tuple[Any, Any]:
    return memberships.c.organization_id == organization_id, memberships.c.person_id == person_id


def count_other_admins(organization_id: UUID, person_id: UUID) -> Select[int]:
    """Return how many admins an organization has besides a person, without those who are disabled."""
    return (
        select(func.count())
        .select_from(memberships.join(people, people.c.id == memberships.c.person_id))
        .where(
            memberships.c.organization_id == organization_id,
            memberships.c.role == "admin",
            memberships.c.person_id != person_id,
            people.c.disabled_at.is_(None),
        )
    )


def ensure_person_caller(caller_id: UUID, person_id: UUID, organization_id: UUID, name: str) -> Executable:
    """Insert the caller that a person is in an organization, unless there is one; return its id either way."""
    return (
        insert(callers)
        .values(id=caller_id, organization_id=organization_id, name=name, person_id=person_id)
        .on_conflict_do_update(
            index_elements=["person_id", "organization_id"],
            index_where=text("person_id IS NOT NULL"),
            set_={"name": name},
        )
        .returning(callers.c.id)
    )


def revoke_keys_of_member(organization_id: UUID, person_id: UUID) -> Executable:
    """Revoke the keys of a person in an organization."""
    of_member = select(callers.c.id).where(
        callers.c.person_id == person_id, callers.c.organization_id == organization_id
    )
    return (
        api_keys.update()
        .where(api_keys.c.caller_id.in_(of_member), api_keys.c.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )


def revoke_keys_of_person(person_id: UUID) -> Executable:
    """Revoke the keys of a person in every organization."""
    of_person = select(callers.c.id).where(callers.c.person_id == person_id)
    return (
        api_keys.update()
        .where(api_keys.c.caller_id.in_(of_person), api_keys.c.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )


def raise_security_version(person_id: UUID) -> Executable:
    """Raise the version of a person's rights, so that access tokens from before are refused."""
    return people.update().where(people.c.id == person_id).values(security_version=people.c.security_version + 1)
