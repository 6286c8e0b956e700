"""Reads people as the API shows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auth.auth_models import Invitation, Membership, Session, User
from api.http.problems import Problem
from shared.queries import people as queries


async def read_user(reads: AsyncEngine, person_id: UUID) -> User:
    """Return a person. Raises `not-found`."""
    async with reads.connect() as connection:
        row = (await connection.execute(queries.get_person(person_id))).one_or_none()
        if row is None:
            raise Problem("not-found")
        return (await show_users(connection, [row]))[0]


async def show_users(connection: AsyncConnection, rows: Sequence[Any]) -> list[User]:
    """Return people with their memberships, from rows of `people`."""
    found: defaultdict[UUID, list[Membership]] = defaultdict(list)
    for row in (await connection.execute(queries.list_memberships([row.id for row in rows]))).all():
        found[row.person_id].append(
            Membership(organization_id=row.organization_id, organization=row.organization_name, role=row.role)
        )
    return [
        User(
            id=row.id,
            email=row.email,
            name=row.name,
            platform_role=row.platform_role,
            email_verified=row.email_verified_at is not None,
            has_password=row.password_hash is not None,
            has_second_factor=row.has_second_factor,
            disabled=row.disabled_at is not None,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            memberships=found[row.id],
        )
        for row in rows
    ]


def show_session(row: Any, current_id: UUID | None) -> Session:
    """Return a session, from a row of `sessions`."""
    return Session(
        id=row.id,
        current=row.id == current_id,
        organization_id=row.organization_id,
        method=row.method,
        address=row.address,
        agent=row.agent,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
    )


def show_invitation(row: Any) -> Invitation:
    """Return an invitation, from a row of `invitations` with the name of the organization."""
    return Invitation(
        id=row.id,
        email=row.email,
        organization_id=row.organization_id,
        organization=row.organization_name,
        role=row.role,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
