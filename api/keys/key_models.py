"""Pydantic models of API keys: the answers, and the bodies of requests."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from api.http.answers import AnswerModel, Moment, Path
from shared.api_keys import MAX_NAME_CHARACTERS, MAX_NETWORKS, read_networks, require_valid_name
from shared.permissions import OrganizationRole, PlatformRole, Scope
from shared.tasks.timestamps import Timestamp

MAX_OVERLAP_SECONDS: Final = 30 * 86_400
DEFAULT_OVERLAP_SECONDS: Final = 86_400
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


def _require_name(value: str) -> str:
    try:
        require_valid_name(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_name", "{reason}", {"reason": str(error)}) from None
    return value


class KeyFields(BaseModel):
    """A new key, and what it may do."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[Name, Field(description="A name by which you tell it from your other keys.")]
    service: Annotated[
        Name | None,
        Field(
            description="The service that the key is for; it is made if there is none of this name. What it submits belongs to "
            "it. If it is left out, the key is yours. Organization admins may name a service."
        ),
    ] = None
    organization_id: Annotated[
        UUID | None,
        Field(strict=False, description="The organization of the service; platform admins may name another one."),
    ] = None
    role: Annotated[
        OrganizationRole | None,
        Field(
            description="What the key may do in the organization: `client`, or your own role if that is less, if left out."
        ),
    ] = None
    platform_role: Annotated[
        PlatformRole | None, Field(description="What it may do in all organizations: nothing, if left out.")
    ] = None
    scopes: Annotated[
        list[Scope] | None,
        Field(description="By default those of the role that you have too, except `keys:write`."),
    ] = None
    expires_at: Annotated[
        Timestamp | None, Field(description="When it expires. By default never, or when the key expires that makes it.")
    ] = None
    networks: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            max_length=MAX_NETWORKS,
            description="The networks from which the key is accepted, such as `203.0.113.0/24`. By default all, or those of the "
            "key that makes it.",
        ),
    ] = None

    @field_validator("name", "service")
    @classmethod
    def _require_names(cls, value: str | None) -> str | None:
        return None if value is None else _require_name(value)

    @field_validator("networks")
    @classmethod
    def _require_networks(cls, value: list[str] | None) -> list[str] | None:
        for position, text in enumerate(value or ()):
            try:
                read_networks([text])
            except ValueError as error:
                context = {"reason": str(error), "pointer": f"/{position}"}
                raise PydanticCustomError("invalid_network", "{reason}", context) from None
        return value

    @field_validator("expires_at")
    @classmethod
    def _require_future(cls, value: datetime | None) -> datetime | None:
        if value is not None and value <= datetime.now(UTC):
            raise PydanticCustomError("not_in_future", "Must be in the future.")
        return value


class RotationFields(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overlap_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_OVERLAP_SECONDS,
            description="How long the old key is accepted beside the new one, unless it expires earlier.",
        ),
    ] = DEFAULT_OVERLAP_SECONDS


def key_components() -> dict[str, dict[str, Any]]:
    """Return the schemas of the bodies about keys, by component."""
    return {
        "NewApiKey": {**KeyFields.model_json_schema(), "title": "NewApiKey"},
        "ApiKeyRotation": {**RotationFields.model_json_schema(), "title": "ApiKeyRotation"},
    }


class KeyOwner(AnswerModel):
    """Whose key it is: what it submits and uploads belongs to this caller."""

    id: UUID
    name: str
    person_id: Annotated[UUID | None, Field(description="The person, or null for a service.")]


class KeyLinks(AnswerModel):
    """The routes of a key."""

    self: Path
    rotate: Path


class ApiKey(AnswerModel):
    """An API key, without its secret."""

    id: UUID
    name: str
    prefix: Annotated[str, Field(description="The part of the key between `tm_` and `_`, which logs show.")]
    key: Annotated[
        str | None, Field(description="The key itself. It is shown only in the answer that makes the key.")
    ] = None
    owner: KeyOwner
    organization_id: UUID
    role: Annotated[
        OrganizationRole,
        Field(
            description="What it may do in the organization. The key of a person never does more than the person may now."
        ),
    ]
    platform_role: PlatformRole | None
    scopes: list[str]
    networks: Annotated[list[str] | None, Field(description="From where it is accepted; null for everywhere.")]
    created_at: Moment
    created_by: Annotated[UUID | None, Field(description="The caller who made it; null if a command did.")]
    replaces: Annotated[UUID | None, Field(description="The key that it replaces, if it was made by rotating one.")]
    last_used_on: Annotated[date | None, Field(description="The day of its last use (UTC).")]
    last_used_network: Annotated[
        str | None, Field(description="The network of its last use: a /24 of IPv4, or a /64 of IPv6.")
    ]
    expires_at: Moment | None
    revoked_at: Moment | None
    links: KeyLinks


class ApiKeyPage(AnswerModel):
    """A page of keys."""

    items: list[ApiKey]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page; null on the last page.")]


def key_model(row: Any, key: str | None = None) -> ApiKey:
    """Return the answer about a row of `queries.select_api_keys`, with the key itself if it was just made."""
    shown = {} if key is None else {"key": key}
    path = f"/api-keys/{row.id}"
    return ApiKey(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        owner=KeyOwner(id=row.caller_id, name=row.caller_name, person_id=row.person_id),
        organization_id=row.organization_id,
        role=row.role,
        platform_role=row.platform_role,
        scopes=list(row.scopes),
        networks=None if row.networks is None else [str(network) for network in row.networks],
        created_at=row.created_at,
        created_by=row.created_by,
        replaces=row.replaces_id,
        last_used_on=None if row.last_used_at is None else row.last_used_at.astimezone(UTC).date(),
        last_used_network=None if row.last_used_network is None else str(row.last_used_network),
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        links=KeyLinks(self=path, rotate=f"{path}/rotate"),
        **shown,
    )
