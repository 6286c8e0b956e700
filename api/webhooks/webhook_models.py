"""Pydantic models of webhooks: the answers, and the bodies of requests."""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from api.http.answers import AnswerModel, Moment, Path
from shared.contracts.catalog import find_kind
from shared.tasks.options import ReceiverUrl, Tag
from shared.webhooks.events import EVENT_TYPES

EventType = Annotated[
    str, Field(examples=["task.failed"], description=f"One of {', '.join(f'`{name}`' for name in EVENT_TYPES)}.")
]
Outcome = Literal["pending", "delivered", "failed"]


class EndpointFields(BaseModel):
    """The fields of an endpoint that a caller sets."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: ReceiverUrl
    event_types: Annotated[
        list[EventType],
        Field(
            min_length=1,
            max_length=100,
            description="The events that are sent to the endpoint. `schedule.failed` is sent at each time at which a schedule "
            "cannot submit its task, and not when the task fails.",
        ),
    ]
    description: Annotated[str, Field(max_length=500, description="A text for people.")] = ""
    kinds: Annotated[
        list[str],
        Field(
            max_length=100,
            description="Only tasks and schedules of these kinds; an empty list for all. Batches and workflows have no kind, "
            "and are sent whatever is here.",
        ),
    ] = []
    tags: Annotated[
        list[Tag],
        Field(
            max_length=100,
            description="Only tasks with one of these tags; an empty list for all. Other events are sent whatever is here.",
        ),
    ] = []
    enabled: Annotated[bool, Field(description="Whether events are sent to it.")] = True

    @field_validator("event_types")
    @classmethod
    def _require_known_types(cls, value: list[str]) -> list[str]:
        for position, name in enumerate(value):
            if name not in EVENT_TYPES:
                raise PydanticCustomError(
                    "unknown_event_type",
                    "There is no event of this type. Choose from {names}.",
                    {"names": ", ".join(EVENT_TYPES), "pointer": f"/{position}"},
                )
        return list(dict.fromkeys(value))

    @field_validator("kinds")
    @classmethod
    def _require_known_kinds(cls, value: list[str]) -> list[str]:
        for position, name in enumerate(value):
            if find_kind(name) is None:
                raise PydanticCustomError("unknown_kind", "There is no kind of this name.", {"pointer": f"/{position}"})
        return list(dict.fromkeys(value))

    @field_validator("description", "tags")
    @classmethod
    def _refuse_nul(cls, value: str | list[str]) -> str | list[str]:
        if any("\x00" in text for text in ([value] if isinstance(value, str) else value)):
            raise PydanticCustomError("nul_character", "A text must not contain the character U+0000.")
        return value


def webhook_components() -> dict[str, dict[str, Any]]:
    """Return the schemas of the bodies that hold an endpoint, by component."""
    schema = EndpointFields.model_json_schema()
    new = {**schema, "title": "NewWebhookEndpoint", "description": "A receiver, and the events that are sent to it."}
    change = {name: value for name, value in schema.items() if name != "required"}
    change |= {"title": "WebhookEndpointChange", "description": "The fields that change.", "minProperties": 1}
    return {"NewWebhookEndpoint": new, "WebhookEndpointChange": deepcopy(change)}


class EndpointLinks(AnswerModel):
    """The routes of an endpoint."""

    self: Path
    rotate: Path
    test: Path
    deliveries: Path


class WebhookEndpoint(AnswerModel):
    """An endpoint: a receiver of webhooks, and the events that are sent to it."""

    id: UUID
    url: str
    event_types: list[str]
    description: str
    kinds: list[str]
    tags: list[str]
    enabled: bool
    disabled_reason: Annotated[
        Literal["gone", "failing"] | None,
        Field(
            description="Why the platform disabled it: `gone` after it answered 410, `failing` after five days without a success."
        ),
    ]
    failing_since: Annotated[
        Moment | None, Field(description="Since when no delivery has succeeded; null if the last one did.")
    ]
    previous_secret_until: Annotated[
        Moment | None,
        Field(description="Until when messages are also signed with the secret from before the last rotation."),
    ]
    secret: Annotated[
        str | None,
        Field(default=None, description="The secret that signs; only in the answers that create or rotate it."),
    ]
    created_at: Moment
    updated_at: Moment
    links: EndpointLinks


class WebhookEndpointPage(AnswerModel):
    """One page of a list of endpoints."""

    items: list[WebhookEndpoint]
    next_cursor: str | None


class WebhookSecret(AnswerModel):
    """The default secret of an organization, which signs webhooks of submissions that name none."""

    secret: str
    previous_secret_until: Annotated[
        Moment | None,
        Field(description="Until when messages are also signed with the secret from before the last rotation."),
    ]


class WebhookTry(AnswerModel):
    """One try of a delivery."""

    number: int
    started_at: Moment
    duration_ms: Annotated[int | None, Field(description="How long it took; null while it runs.")]
    status: Annotated[int | None, Field(description="The status of the answer; null if there is none.")]
    error: Annotated[
        str | None,
        Field(
            description="Why there is no answer; null if there is one: `address_refused`, `name_not_resolved`, `connect_failed`, "
            "`tls_failed`, `timed_out`, `connection_lost`, `not_http`, `endpoint_disabled`, `data_erased`, `secret_unreadable` or "
            "`interrupted`."
        ),
    ]
    detail: Annotated[
        str | None, Field(description="Why it failed, as a sentence; null if the status of the answer says it.")
    ]
    answer: Annotated[str | None, Field(description="The first 1,024 bytes of the answer's body.")]


class DeliveryLinks(AnswerModel):
    """The routes of a delivery."""

    self: Path
    redeliver: Path


class WebhookDelivery(AnswerModel):
    """A delivery: one message to one receiver, with its tries."""

    id: Annotated[UUID, Field(description="The `webhook-id` of every try.")]
    endpoint_id: Annotated[UUID | None, Field(description="The endpoint; null for the webhook of one submission.")]
    task_id: Annotated[UUID | None, Field(description="The task that ended; null for other events.")]
    event_type: str
    url: str
    outcome: Outcome
    tries: Annotated[int, Field(ge=0, description="How many tries have begun.")]
    next_try_at: Annotated[Moment | None, Field(description="When it is tried next, after a failed try.")]
    created_at: Moment
    finished_at: Annotated[Moment | None, Field(description="When it was delivered, or failed for good.")]
    attempts: Annotated[
        list[WebhookTry],
        Field(default_factory=list, description="Its tries, oldest first; only in the answer for one delivery."),
    ]
    links: DeliveryLinks


class WebhookDeliveryPage(AnswerModel):
    """One page of a list of deliveries."""

    items: list[WebhookDelivery]
    next_cursor: str | None
