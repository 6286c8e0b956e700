"""Updates the roles of people to what the claims of their provider grant: adds new ones and removes the others."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth.clients import Client
from api.auth.sessions import Sessions
from shared.audit.actions import AuditAction
from shared.identifiers import new_id
from shared.people.provider_grants import Granted
from shared.queries import callers as caller_queries
from shared.queries import identities as identity_queries
from shared.queries import organizations as organization_queries
from shared.queries import people as queries

log = structlog.get_logger()


class ProviderRoles:
    """Makes the roles of a person equal to what the grants say, in the organizations that the grants name and no others."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def apply(self, connection: AsyncConnection, person: Any, granted: Granted, client: Client) -> None:
        """Change the roles of a locked person. The caller holds the lock on platform admins."""
        statement = identity_queries.list_roles_by_name(person.id, sorted(granted.organizations))
        before = {row.name: row for row in (await connection.execute(statement)).all()}
        for name in sorted(granted.organizations):
            role, stored = granted.roles.get(name), before.get(name)
            if role is not None and stored is None:
                await self._add(connection, person, name, role, client)
            elif role is None and stored is not None:
                await self._remove(connection, person.id, stored, client)
            elif role is not None and stored is not None and stored.role != role:
                await self._change(connection, person.id, stored, role, client)
        if granted.decides_platform_role and granted.platform_role != person.platform_role:
            await self._change_platform_role(connection, person, granted.platform_role, client)

    async def _add(self, connection: AsyncConnection, person: Any, name: str, role: str, client: Client) -> None:
        organization_id = (await connection.execute(caller_queries.ensure_organization(new_id(), name))).scalar_one()
        await connection.execute(organization_queries.lock_organization(organization_id))
        await connection.execute(organization_queries.insert_membership(person.id, organization_id, role))
        await connection.execute(
            organization_queries.ensure_person_caller(new_id(), person.id, organization_id, person.name or person.email)
        )
        await self._note(connection, AuditAction.MEMBER_ADDED, organization_id, person.id, client, None, role)

    async def _change(
        self, connection: AsyncConnection, person_id: UUID, stored: Any, role: str, client: Client
    ) -> None:
        await connection.execute(organization_queries.change_member_role(stored.id, person_id, role))
        await self._note(connection, AuditAction.MEMBER_ROLE_CHANGED, stored.id, person_id, client, stored.role, role)

    async def _remove(self, connection: AsyncConnection, person_id: UUID, stored: Any, client: Client) -> None:
        await connection.execute(organization_queries.revoke_keys_of_member(stored.id, person_id))
        await connection.execute(organization_queries.delete_membership(stored.id, person_id))
        await self._note(connection, AuditAction.MEMBER_REMOVED, stored.id, person_id, client, stored.role, None)

    async def _change_platform_role(
        self, connection: AsyncConnection, person: Any, role: str | None, client: Client
    ) -> None:
        if person.platform_role == "admin":
            has_another = (await connection.execute(queries.has_another_platform_admin(person.id))).scalar_one()
            if not has_another:
                log.warning("last_platform_admin_kept", person_id=str(person.id))
                return
        await connection.execute(queries.change_person(person.id, {"platform_role": role}))
        await self._sessions.note(
            connection,
            AuditAction.PERSON_ROLE_CHANGED,
            person.id,
            person.id,
            client,
            after={"platform_role": role, "by": "provider"},
        )

    async def _note(
        self,
        connection: AsyncConnection,
        action: AuditAction,
        organization_id: UUID,
        person_id: UUID,
        client: Client,
        before: str | None,
        after: str | None,
    ) -> None:
        await self._sessions.note(
            connection,
            action,
            organization_id,
            person_id,
            client,
            organization_id,
            after={"person_id": str(person_id), "role": after, "role_before": before, "by": "provider"},
        )
