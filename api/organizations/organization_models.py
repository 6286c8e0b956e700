"""Pydantic models of organizations and their members: the answers, and the bodies of requests."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from api.http.answers import AnswerModel, Moment, Path
from shared.api_keys import MAX_NAME_CHARACTERS, require_valid_name
from shared.permissions import OrganizationRole

MAX_WEIGHT: Final = 100
OrganizationName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewOrganizationFields(_Body):
    """A new organization."""

    name: Annotated[OrganizationName, Field(description="Its name, which no other organization has.")]

    @field_validator("name")
    @classmethod
    def _require_name(cls, value: str) -> str:
        return read_name(value)


class OrganizationChangeFields(_Body):
    """The fields of an organization that change."""

    name: Annotated[OrganizationName | None, Field(description="Its name, which no other organization has.")] = None
    disabled: Annotated[
        bool | None,
        Field(description="Whether its keys and members are refused. What it owns stays, and its tasks still run."),
    ] = None

    weight: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_WEIGHT,
            description="How many tasks of each of its callers start for one task of a caller whose organization has the "
            "weight 1, while both have tasks due in a queue.",
        ),
    ] = None

    @field_validator("name")
    @classmethod
    def _require_name(cls, value: str | None) -> str | None:
        return None if value is None else read_name(value)

    @model_validator(mode="after")
    def _require_change(self) -> OrganizationChangeFields:
        if not self.model_fields_set:
            raise PydanticCustomError("empty", "The body has no field to change.")
        return self


class NewMemberFields(_Body):
    """Who becomes a member, by one of the two, and with which role."""

    person_id: Annotated[UUID | None, Field(strict=False, description="The id of the person.")] = None
    email: Annotated[
        str | None, Field(min_length=3, max_length=320, description="The address with which the person signs in.")
    ] = None
    role: OrganizationRole

    @model_validator(mode="after")
    def _require_one(self) -> NewMemberFields:
        if (self.person_id is None) == (self.email is None):
            raise PydanticCustomError("one_person", "Must have exactly one of person_id and email")
        return self


class MemberRoleFields(_Body):
    """The new role of a member."""

    role: OrganizationRole


def read_name(value: str) -> str:
    """Return the name of an organization. Raises the error of a field."""
    try:
        require_valid_name(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_name", "{reason}", {"reason": str(error)}) from None
    return value


def organization_components() -> dict[str, dict[str, Any]]:
    """Return the schemas of the bodies about organizations, by component."""
    bodies: dict[str, type[BaseModel]] = {
        "NewOrganization": NewOrganizationFields,
        "OrganizationChange": OrganizationChangeFields,
        "NewMember": NewMemberFields,
        "MemberChange": MemberRoleFields,
    }
    return {name: {**body.model_json_schema(), "title": name} for name, body in bodies.items()}


class OrganizationLinks(AnswerModel):
    """The routes of an organization."""

    self: Path
    members: Path


class Organization(AnswerModel):
    """An organization."""

    id: UUID
    name: str
    disabled: Annotated[bool, Field(description="Whether its keys and members are refused.")]
    weight: Annotated[
        int, Field(description="How many tasks of each of its callers start for one of a caller of weight 1.")
    ]
    created_at: Moment
    links: OrganizationLinks


class OrganizationPage(AnswerModel):
    """A page of organizations."""

    items: list[Organization]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page; null on the last page.")]


class Member(AnswerModel):
    """A person in an organization."""

    person_id: UUID
    email: str
    name: str | None
    role: OrganizationRole
    disabled: Annotated[bool, Field(description="Whether the person may not sign in, here or elsewhere.")]
    caller_id: Annotated[UUID | None, Field(description="The caller who owns what the person submits here.")]
    created_at: Annotated[Moment, Field(description="When the person became a member.")]


class MemberPage(AnswerModel):
    """A page of members."""

    items: list[Member]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page; null on the last page.")]


def organization_model(row: Any) -> Organization:
    """Return the answer about an organization."""
    path = f"/organizations/{row.id}"
    return Organization(
        id=row.id,
        name=row.name,
        disabled=row.disabled_at is not None,
        weight=row.weight,
        created_at=row.created_at,
        links=OrganizationLinks(self=path, members=f"{path}/members"),
    )


def member_model(row: Any) -> Member:
    """Return the answer about a row of `queries.list_members`."""
    return Member(
        person_id=row.id,
        email=row.email,
        name=row.name,
        role=row.role,
        disabled=row.disabled_at is not None,
        caller_id=row.caller_id,
        created_at=row.created_at,
    )
