"""Entries of the audit log as `GET /audit` shows them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field

from api.http.answers import AnswerModel, Moment
from api.http.list_formats import Columns


class AuditActor(AnswerModel):
    """Who acted. The ids are null where they do not apply."""

    type: Annotated[
        Literal["key", "person", "command", "platform", "anonymous"],
        Field(
            description="`key`: a request with an API key; `person`: of somebody who signed in; `anonymous`: without valid "
            "credentials; `command`: the command line; `platform`: the platform itself."
        ),
    ]
    caller_id: UUID | None
    person_id: UUID | None
    api_key_id: UUID | None


class AuditResource(AnswerModel):
    """What was acted on."""

    type: str
    id: Annotated[str | None, Field(description="Mostly a UUID; for a queue or a kind, its name.")]


class AuditEntry(AnswerModel):
    """One entry of the audit log."""

    id: UUID
    created_at: Moment
    actor: AuditActor
    action: str
    resource: AuditResource
    organization_id: Annotated[UUID | None, Field(description="Whose the resource is; null if it is the platform's.")]
    address: Annotated[str | None, Field(description="The address that the request came from.")]
    request_id: Annotated[str | None, Field(description="The `X-Request-ID` of the request.")]
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditPage(AnswerModel):
    """A page of the audit log."""

    items: list[AuditEntry]
    next_cursor: str | None


AUDIT_COLUMNS: Final[Columns] = {
    "id": ("id",),
    "created_at": ("created_at",),
    "actor_type": ("actor", "type"),
    "caller_id": ("actor", "caller_id"),
    "person_id": ("actor", "person_id"),
    "api_key_id": ("actor", "api_key_id"),
    "action": ("action",),
    "resource_type": ("resource", "type"),
    "resource_id": ("resource", "id"),
    "organization_id": ("organization_id",),
    "address": ("address",),
    "request_id": ("request_id",),
    "before": ("before",),
    "after": ("after",),
}
"""The columns of the audit log as CSV."""


def entry_model(row: Any) -> AuditEntry:
    """Return a row of `audit_entries` as an entry."""
    return AuditEntry(
        id=row.id,
        created_at=row.at,
        actor=AuditActor(
            type=row.actor_type, caller_id=row.caller_id, person_id=row.person_id, api_key_id=row.api_key_id
        ),
        action=row.action,
        resource=AuditResource(type=row.resource_type, id=row.resource_id),
        organization_id=row.organization_id,
        address=None if row.address is None else str(row.address).partition("/")[0],
        request_id=row.request_id,
        before=row.before,
        after=row.after,
    )
