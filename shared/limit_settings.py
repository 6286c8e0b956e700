"""The settings of what clients may send, and of what organizations and callers may use by default."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from shared.limits import Limits
from shared.setting_subjects import GIBIBYTE, MEBIBYTE, Subject, refusal


class LimitSettings(Subject):
    """Limits of what clients may send."""

    title: ClassVar[str] = "Limits"

    max_json_bytes: Annotated[int, Field(ge=1024, description="The largest JSON body.")] = MEBIBYTE
    max_batch_bytes: Annotated[
        int, Field(ge=1024, description="The largest body of `POST /tasks/batch` and `POST /workflows`.")
    ] = 16 * MEBIBYTE
    max_upload_bytes: Annotated[int, Field(ge=1, description="The largest upload.")] = 5 * GIBIBYTE
    rate_limit_client: Annotated[
        int,
        Field(
            ge=1,
            description="Requests that a client may make in a minute, in each class of routes and each API process.",
        ),
    ] = 600
    rate_limit_privileged: Annotated[
        int,
        Field(ge=1, description="The same for operators and admins. The default is practically no limit."),
    ] = 10_000_000
    rate_limit_unauthenticated: Annotated[
        int, Field(ge=1, description="Refused credentials in a minute from one address, after which it gets 429.")
    ] = 600
    rate_limit_sign_in: Annotated[
        int,
        Field(
            ge=1,
            description="How often one address (of IPv6, one network of 64 bits) may try to sign in, register or reset a "
            "password in a minute, counted in the broker for all processes.",
        ),
    ] = 30
    rate_limit_sign_in_account: Annotated[
        int, Field(ge=1, description="The same for each account, whatever the addresses are.")
    ] = 10
    max_queued: Annotated[
        int,
        Field(
            ge=0,
            description="How many tasks of all callers may be queued; submissions beyond it get 429. 0 for no limit.",
        ),
    ] = 0
    max_queued_per_caller: Annotated[int, Field(ge=0, description="The same for each caller.")] = 0
    max_streams_per_caller: Annotated[
        int, Field(ge=1, description="Event streams that a caller may have open at a time in each API process.")
    ] = 2000
    max_schedules: Annotated[int, Field(ge=0, description="How many schedules an organization may have.")] = 1000


class QuotaSettings(Subject):
    """What organizations and callers may use, unless they have limits of their own."""

    title: ClassVar[str] = "Quotas"

    organization_limits: Annotated[
        Annotated[Limits, NoDecode],
        Field(
            description="The limits of an organization that has none of its own, as JSON, such as "
            '`{"tasks_per_day": 10000, "stored_bytes": 100000000000}`. What is left out is not limited. `docs/production.md` '
            "lists them."
        ),
    ] = Limits()
    caller_limits: Annotated[
        Annotated[Limits, NoDecode],
        Field(description="The same for each person or service within an organization."),
    ] = Limits()

    @field_validator("organization_limits", "caller_limits", mode="before")
    @classmethod
    def _parse_json(cls, value: object) -> object:
        """Parse a text here, so that one that is no JSON is reported like every other wrong setting, from a file too."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise refusal('must be a JSON object, such as {"tasks_per_day": 10000}') from None
