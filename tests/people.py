"""People and their memberships, for tests of what they may do."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection

from shared.api_keys import KeyGrant, issue_key
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.permissions import DEFAULT_SCOPES, OrganizationRole, PlatformRole
from shared.queries import organizations as queries
from shared.settings import Settings
from shared.tables.callers import people


def insert_person(settings: Settings, email: str, platform_role: PlatformRole | None = None) -> UUID:
    """Store a person and return the id."""
    person_id = new_id()
    values = {"id": person_id, "email": email, "email_key": email.lower(), "platform_role": platform_role}
    engine = make_engine(settings, "test")
    with engine.begin() as connection:
        connection.execute(people.insert().values(values))
    engine.dispose()
    return person_id


def make_member_key(settings: Settings, person_id: UUID, organization_id: UUID, role: OrganizationRole) -> str:
    """Make a person a member of an organization unless they are, and return a key of theirs with all rights of the role."""

    def make(connection: Connection) -> str:
        connection.execute(queries.insert_membership(person_id, organization_id, role))
        caller_id = connection.execute(
            queries.ensure_person_caller(new_id(), person_id, organization_id, "a person")
        ).scalar_one()
        scopes = tuple(dict.fromkeys((*DEFAULT_SCOPES[role], "keys:write")))
        return issue_key(connection, caller_id, organization_id, "key", KeyGrant(role, None, scopes)).key

    engine = make_engine(settings, "test")
    with engine.begin() as connection:
        key = make(connection)
    engine.dispose()
    return key
