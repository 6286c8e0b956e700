"""What an organization or a caller may use at most, as settings, requests and commands write it.

The table `limits` has one row for each limit (`shared/tables/limits.py`). A limit that is left out is that of the settings; one
that is null does not exist, whatever the settings say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

Scope = Literal["organization", "caller"]
RouteClass = Literal["read", "submit", "upload"]
QUOTA_EXCEEDED: Final = "23Q01"
"""The SQLSTATE with which the database refuses what exceeds a quota."""
MOST: Final = (1 << 53) - 1
"""The largest amount: the largest whole number that every JSON parser reads exactly."""
MAX_RETENTION_SECONDS: Final = 315_576_000

Amount = Annotated[int, Field(ge=0, le=MOST)]
_SENDER: Final = re.compile(r"[^@\s<>]{0,64}@[^@\s<>]{1,255}")


def _require_sender(text: str) -> str:
    """Return an allowed sender. Raises `sender` for what is neither an address nor a domain with an @ before it."""
    if _SENDER.fullmatch(text) is None:
        raise PydanticCustomError(
            "sender", "An allowed sender is an address, such as reports@example.com, or a domain, such as @example.com"
        )
    return text


Sender = Annotated[
    str,
    StringConstraints(to_lower=True),
    AfterValidator(_require_sender),
    WithJsonSchema({"type": "string", "pattern": rf"^{_SENDER.pattern}$"}),
]


class LimitRow(NamedTuple):
    """One row of the table: `target` is a queue, a kind or a class of routes where the limit has several, and else empty."""

    name: str
    target: str
    amount: int | None
    allowed: list[str] | None


class StoredLimit(Protocol):
    """The columns of a row that is read from the table."""

    name: str
    target: str
    amount: int | None
    allowed: list[str] | None


class HeldRow(StoredLimit, Protocol):
    """The columns of a row of `shared.queries.limits.LIST_EFFECTIVE_LIMITS`."""

    scope: str


class Limits(BaseModel):
    """Limits of an organization, or of a caller. Those of a caller hold within those of its organization."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks_per_day: Annotated[Amount | None, Field(description="Tasks submitted in a day (UTC).")] = None
    live_tasks: Annotated[Amount | None, Field(description="Tasks that are not done.")] = None
    running: Annotated[Amount | None, Field(description="Tasks that run at the same time.")] = None
    running_by_queue: Annotated[
        dict[Annotated[str, StringConstraints(min_length=1, max_length=50)], Amount | None],
        Field(max_length=50, description="Tasks of a queue that run at the same time."),
    ] = {}
    running_by_kind: Annotated[
        dict[Annotated[str, StringConstraints(min_length=1, max_length=100)], Amount | None],
        Field(max_length=200, description="Tasks of a kind that run at the same time."),
    ] = {}
    stored_bytes: Annotated[Amount | None, Field(description="Bytes of stored files, uploads and artifacts.")] = None
    upload_bytes: Annotated[Amount | None, Field(description="Bytes of one upload.")] = None
    retention_seconds: Annotated[
        Annotated[int, Field(ge=0, le=MAX_RETENTION_SECONDS)] | None,
        Field(description="How long tasks and files may be kept at most."),
    ] = None
    report_rows: Annotated[Amount | None, Field(description="Rows of one report.")] = None
    emails_per_day: Annotated[Amount | None, Field(description="Emails submitted in a day (UTC).")] = None
    recipients_per_day: Annotated[Amount | None, Field(description="Recipients of the emails of a day.")] = None
    senders: Annotated[
        list[Sender] | None,
        Field(
            max_length=1000,
            description="Who may stand in `from` of emails: addresses, and domains with an @ before them, such as "
            "`@example.com`. The platform's own sender is always allowed.",
        ),
    ] = None
    requests_per_minute: Annotated[
        dict[RouteClass, Annotated[int, Field(ge=1, le=MOST)] | None],
        Field(description="Requests that each caller may make in a minute, by class of routes."),
    ] = {}

    def rows(self) -> list[LimitRow]:
        """Return the rows of the limits that are given."""
        rows = []
        for name in Limits.model_fields:
            if name not in self.model_fields_set:
                continue
            value = getattr(self, name)
            if isinstance(value, dict):
                rows += [LimitRow(name, target, amount, None) for target, amount in sorted(value.items())]
            elif name == "senders":
                rows.append(LimitRow(name, "", None, value))
            else:
                rows.append(LimitRow(name, "", value, None))
        return rows

    @classmethod
    def of_rows(cls, rows: Iterable[StoredLimit]) -> Limits:
        """Return the limits that stored rows are."""
        values: dict[str, Any] = {}
        for row in rows:
            value = row.allowed if row.name == "senders" else row.amount
            if row.target:
                values.setdefault(row.name, {})[row.target] = value
            else:
                values[row.name] = value
        return cls.model_construct(_fields_set=set(values), **values)

    def over(self, defaults: Limits) -> Limits:
        """Return these limits, and for each that is left out the default one."""
        values: dict[str, Any] = {name: getattr(defaults, name) for name in defaults.model_fields_set}
        for name in self.model_fields_set:
            own = getattr(self, name)
            values[name] = {**values.get(name, {}), **own} if isinstance(own, dict) else own
        return Limits.model_construct(_fields_set=set(values), **values)

    def given(self) -> dict[str, Any]:
        """Return the limits that are given, as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)

    def for_audit(self) -> dict[str, Any]:
        """Return the limits that are given, with the number of allowed senders: the audit log holds no addresses."""
        found = self.given()
        return found | {"senders": len(self.senders)} if self.senders is not None else found


@dataclass(frozen=True)
class HeldLimits:
    """The limits that hold for a caller: those of its organization, and its own within them."""

    organization: Limits = field(default_factory=Limits)
    caller: Limits = field(default_factory=Limits)

    def least(self, name: str) -> int | None:
        """Return the lower of the two amounts of a limit, or None if there is neither."""
        amounts = [amount for one in (self.organization, self.caller) if (amount := getattr(one, name)) is not None]
        return min(amounts) if amounts else None

    def sender_lists(self) -> list[Sequence[str]]:
        """Return the lists of allowed senders, each of which must contain a sender."""
        return [one.senders for one in (self.organization, self.caller) if one.senders is not None]

    def requests_per_minute(self) -> dict[RouteClass, int]:
        """Return how many requests the caller may make in a minute, by class of routes, where it is not the setting."""
        amounts = {**self.organization.requests_per_minute, **self.caller.requests_per_minute}
        return {route_class: amount for route_class, amount in amounts.items() if amount is not None}

    @classmethod
    def of_rows(cls, rows: Sequence[HeldRow]) -> HeldLimits:
        """Return the limits that the rows of `LIST_EFFECTIVE_LIMITS` are."""
        if not rows:
            return NO_LIMITS
        return cls(
            Limits.of_rows(row for row in rows if row.scope == "organization"),
            Limits.of_rows(row for row in rows if row.scope == "caller"),
        )


NO_LIMITS: Final = HeldLimits()


def sender_is_allowed(address: str, allowed: Iterable[str]) -> bool:
    """Return whether an address, or its domain with an @ before it, is in a list of allowed senders."""
    local, _, domain = address.lower().rpartition("@")
    return any(one in {f"{local}@{domain}", f"@{domain}"} for one in allowed)
