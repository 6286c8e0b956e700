"""The models of answers about limits and usage."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from api.http.answers import AnswerModel
from shared.limits import Limits


class SubjectLimits(AnswerModel):
    """The limits of an organization, or of a caller in it."""

    organization_id: UUID
    caller_id: Annotated[UUID | None, Field(description="The caller, or null for the organization.")]
    limits: Annotated[
        Limits,
        Field(
            description="Its own limits. A limit that is left out is that of the settings; one that is null does not exist, "
            "whatever the settings say."
        ),
    ]
    effective: Annotated[Limits, Field(description="The limits that hold: its own, and else those of the settings.")]


class Quota(AnswerModel):
    """How much of a quota is used."""

    used: Annotated[int, Field(ge=0, description="How much is used now, or today for a quota of a day.")]
    allowed: Annotated[int | None, Field(ge=0, description="How much is allowed; null if there is no limit.")]


class UsageOfSubject(AnswerModel):
    """What an organization, or a caller, uses and may use."""

    tasks_per_day: Quota
    live_tasks: Quota
    stored_bytes: Quota
    emails_per_day: Quota
    recipients_per_day: Quota
    limits: Annotated[Limits, Field(description="Every limit that holds, the other ones too.")]


class UsageOfDay(AnswerModel):
    """What an organization submitted in one day."""

    day: Annotated[date, Field(description="In UTC.")]
    tasks: Annotated[int, Field(ge=0)]
    emails: Annotated[int, Field(ge=0)]
    recipients: Annotated[int, Field(ge=0)]


class Usage(AnswerModel):
    """What the caller and its organization use, may use, and used on the last days."""

    organization_id: UUID
    caller_id: UUID
    day: Annotated[date, Field(description="Today, in UTC.")]
    resets_in_seconds: Annotated[int, Field(ge=1, description="When the quotas of a day begin anew.")]
    organization: UsageOfSubject
    caller: UsageOfSubject
    history: Annotated[
        list[UsageOfDay], Field(description="The days on which the organization submitted, newest first.")
    ]


def limits_components() -> dict[str, dict[str, Any]]:
    """Return the schema of the body of a change of limits, by component."""
    schema = Limits.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"NewLimits": {**schema, "title": "NewLimits"}}
