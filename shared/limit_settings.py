"""The settings of what organizations and callers may use by default."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.limits import Limits
from shared.setting_subjects import Subject


class QuotaSettings(Subject):
    """What organizations and callers may use, unless they have limits of their own."""

    title: ClassVar[str] = "Quotas"

    organization_limits: Annotated[
        Limits,
        Field(
            description="The limits of an organization that has none of its own, as JSON, such as "
            '`{"tasks_per_day": 10000, "stored_bytes": 100000000000}`. What is left out is not limited. `docs/production.md` '
            "lists them."
        ),
    ] = Limits()
    caller_limits: Annotated[
        Limits, Field(description="The same for each person or service within an organization.")
    ] = Limits()
