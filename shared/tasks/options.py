"""The options that a submission of any kind may have, and the models of whole submissions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Final, Literal, cast

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from shared.contracts.catalog import list_kinds
from shared.contracts.email.send import MailboxText
from shared.contracts.kind import AnyKind, Params
from shared.contracts.secrets import REVEAL
from shared.tasks.timestamps import Timestamp
from shared.webhooks.signing import normalize_secret
from shared.webhooks.urls import MAX_URL_CHARACTERS, InvalidUrl, normalize_url

DAY_SECONDS: Final = 86_400
DEFAULT_KEEP_SECONDS: Final = 7 * DAY_SECONDS
LONGEST_KEEP_SECONDS: Final = 365 * DAY_SECONDS
LONGEST_WAIT_SECONDS: Final = 3650 * DAY_SECONDS
LONGEST_BACKOFF_SECONDS: Final = 7 * DAY_SECONDS
MAX_METADATA_BYTES: Final = 4096

Tag = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Backoff(BaseModel):
    """How long a task waits before its next attempt: `first_seconds` after the first one, then twice as long each time.

    A random part of up to half of each wait is left out, so that tasks which failed together do not start together again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first_seconds: Annotated[
        float,
        Field(ge=0, le=LONGEST_BACKOFF_SECONDS, allow_inf_nan=False, description="The wait after the first attempt."),
    ]
    longest_seconds: Annotated[
        float, Field(ge=0, le=LONGEST_BACKOFF_SECONDS, allow_inf_nan=False, description="No wait is longer than this.")
    ]

    @model_validator(mode="after")
    def _check_order(self) -> Backoff:
        if self.longest_seconds < self.first_seconds:
            raise PydanticCustomError(
                "longest_before_first", "Must be at least first_seconds.", {"pointer": "/longest_seconds"}
            )
        return self


def _check_url(value: str) -> str:
    try:
        return normalize_url(value)
    except InvalidUrl as error:
        raise PydanticCustomError("invalid_url", "{message}", {"message": str(error)}) from None


def _check_secret(value: str) -> str:
    try:
        return normalize_secret(value)
    except ValueError as error:
        raise PydanticCustomError("invalid_secret", "{message}", {"message": str(error)}) from None


ReceiverUrl = Annotated[
    str,
    Field(
        max_length=MAX_URL_CHARACTERS,
        description="The URL of the receiver, `https` or `http`, without credentials and without a fragment.",
        examples=["https://example.com/hooks"],
    ),
    AfterValidator(_check_url),
]
"""The URL that a webhook is sent to, with its host in ASCII."""
SigningSecret = Annotated[
    str,
    Field(max_length=200, description="The secret that signs: `whsec_` and the base64 of 24 to 64 random bytes."),
    AfterValidator(_check_secret),
]


class WebhookOption(BaseModel):
    """A webhook for the end of one task."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: ReceiverUrl
    secret: Annotated[
        SigningSecret | None,
        Field(description="The secret that signs; without it, the organization's default one (`GET /webhook-secret`)."),
    ] = None


def _refuse_nul(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("nul_character", "A text must not contain the character U+0000.")
    return value


LimitKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128),
    AfterValidator(_refuse_nul),
    Field(description="Names what is limited. Tasks of one organization with equal keys count together."),
]
MAX_KEY_LIMIT: Final = 10_000


class ConcurrencyLimit(BaseModel):
    """How many tasks of a key may run at once.

    Tasks of one key may name different limits: one starts if neither its own limit nor that of a running task is exceeded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: LimitKey
    limit: Annotated[int, Field(ge=1, le=MAX_KEY_LIMIT, description="How many of the key's tasks run at once at most.")]


class RateLimit(BaseModel):
    """How many attempts of tasks of a key may start within a time.

    Tasks of one key may name different limits: one starts if its own limit is not exceeded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: LimitKey
    limit: Annotated[
        int, Field(ge=1, le=MAX_KEY_LIMIT, description="How many attempts start within `period_seconds` at most.")
    ]
    period_seconds: Annotated[
        int, Field(ge=1, le=DAY_SECONDS, description="The length of the time, whenever it begins: a sliding window.")
    ]


NotifiedStatus = Literal["succeeded", "failed", "cancelled", "expired"]


class NotifyOption(BaseModel):
    """Who gets an email when a task has ended."""

    model_config = ConfigDict(extra="forbid")

    email: Annotated[
        list[MailboxText], Field(min_length=1, max_length=20, description="The mailboxes that receive the message.")
    ]
    on: Annotated[
        list[NotifiedStatus],
        Field(min_length=1, max_length=4, description="The statuses after which the message is sent."),
    ] = ["failed"]


class TaskOptions(BaseModel):
    """How and when a task runs. No kind has a param with one of these names. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    priority: Annotated[
        int, Field(ge=0, le=9, description="Among the tasks of one caller, those of higher priority start first.")
    ] = 5
    run_at: Annotated[
        Timestamp | None, Field(description="The task starts at this time or later. Cannot be used with `delay`.")
    ] = None
    delay: Annotated[
        float | None,
        Field(
            ge=0,
            le=LONGEST_WAIT_SECONDS,
            allow_inf_nan=False,
            description="The task starts after this many seconds or later.",
        ),
    ] = None
    ttl: Annotated[
        int | None,
        Field(
            ge=1,
            le=LONGEST_WAIT_SECONDS,
            description="If the task has not started this many seconds after `created_at`, it expires.",
        ),
    ] = None
    max_attempts: Annotated[
        int | None,
        Field(ge=1, le=25, description="How many attempts the task has. By default as many as its kind allows."),
    ] = None
    timeout: Annotated[
        int | None,
        Field(
            ge=1, description="How many seconds one attempt may take. The kind sets the maximum, which is the default."
        ),
    ] = None
    keep_for: Annotated[
        int,
        Field(
            ge=0,
            le=LONGEST_KEEP_SECONDS,
            description="How many seconds the task and its artifacts are kept once it is done.",
        ),
    ] = DEFAULT_KEEP_SECONDS
    tags: Annotated[list[Tag], Field(max_length=16, description="Words by which the task can be found in lists.")] = []
    metadata: Annotated[
        dict[str, str],
        Field(description="An object of strings, up to 4 KiB as compact JSON, which the task shows unchanged."),
    ] = {}
    unique_for: Annotated[
        int | None,
        Field(
            ge=1,
            le=LONGEST_WAIT_SECONDS,
            description="If a task of the same owner, kind and params is not done and was created less than this many "
            "seconds ago, no new task is created and the response contains that one.",
        ),
    ] = None
    webhook: Annotated[
        WebhookOption | None, Field(description="Where the task is posted when it has ended, as a signed webhook.")
    ] = None
    notify: Annotated[
        NotifyOption | None,
        Field(description="Who gets an email when the task has ended, and after which statuses."),
    ] = None

    backoff: Annotated[
        Backoff | None,
        Field(description="How long the task waits before its next attempt. By default as its kind says."),
    ] = None

    concurrency: Annotated[
        ConcurrencyLimit | None,
        Field(description="How many tasks of a key run at once at most. The task waits in its queue while they do."),
    ] = None
    rate: Annotated[
        RateLimit | None,
        Field(
            description="How many attempts of tasks of a key start within a time at most. The task waits in its queue."
        ),
    ] = None

    @model_validator(mode="after")
    def _check_run_at_and_metadata(self) -> TaskOptions:
        if self.run_at is not None:
            if self.delay is not None:
                raise PydanticCustomError("run_at_and_delay", "Use run_at or delay, not both.", {"pointer": "/delay"})
            if self.run_at > datetime.now(UTC) + timedelta(seconds=LONGEST_WAIT_SECONDS) or self.run_at.year < 2000:
                raise PydanticCustomError(
                    "run_at_out_of_range",
                    "Must be in the year 2000 or later, and at most ten years from now.",
                    {"pointer": "/run_at"},
                )
        if self.metadata and len(orjson.dumps(self.metadata)) > MAX_METADATA_BYTES:
            raise PydanticCustomError(
                "metadata_too_large", "Must be at most 4 KiB as compact JSON.", {"pointer": "/metadata"}
            )
        return self


OPTION_NAMES: Final = frozenset(TaskOptions.model_fields)


@cache
def submission_model(kind_name: str) -> type[TaskOptions]:
    """Return the model of `{kind, params, …options}` for one kind, with the model of its params."""
    kind = list_kinds()[kind_name]
    fields: dict[str, Any] = {"kind": (Literal[kind_name], ...), "params": (kind.params, _default_params(kind))}
    return cast(type[TaskOptions], create_model(_class_name(kind_name) + "Submission", __base__=TaskOptions, **fields))


@cache
def side_by_side_model(kind_name: str) -> type[TaskOptions]:
    """Return the model of a body that has the params of a kind and the options side by side, as `POST /emails` has."""
    kind = list_kinds()[kind_name]
    return cast(
        type[TaskOptions], create_model(_class_name(kind_name) + "Request", __base__=(TaskOptions, kind.params))
    )


def dump_params(request: BaseModel, kind: AnyKind) -> bytes:
    """Return the params of a request of `side_by_side_model` as JSON, with their secrets."""
    return request.model_dump_json(include=set(kind.params.model_fields), by_alias=True, context=REVEAL).encode()


def _default_params(kind: AnyKind) -> Params | Any:
    """Return the default of `params` in a submission: params without fields, or `...` (required) if those are not valid."""
    try:
        return kind.params()
    except ValidationError:
        return ...


def _class_name(kind_name: str) -> str:
    return "".join(word.capitalize() for word in kind_name.replace(".", "_").split("_"))
