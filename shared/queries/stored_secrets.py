"""Statements that read and replace stored secrets, for encrypting them again with another key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Executable, Select, Table, Text, case, cast, literal, null, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables import batches, schedules, sessions, tasks, webhooks, workflows


class Place(NamedTuple):
    """A column that holds stored secrets: as its whole text, or within JSON."""

    table: Table
    column: str
    purpose: str | None = None
    """What the secrets are for, if it depends on the row: a format of the values of its primary key."""

    @property
    def _value(self) -> ColumnElement[str]:
        return cast(self.table.c[self.column], Text)

    @property
    def _key(self) -> list[ColumnElement[Any]]:
        return list(self.table.primary_key.columns)


PLACES: Final = (
    Place(sessions.second_factors, "secret", "second factor of {0}"),
    Place(sessions.signing_keys, "private_key", "signing key {0}"),
    Place(webhooks.webhook_endpoints, "secret"),
    Place(webhooks.webhook_endpoints, "previous_secret"),
    Place(webhooks.webhook_secrets, "secret"),
    Place(webhooks.webhook_secrets, "previous_secret"),
    Place(webhooks.webhook_deliveries, "secret"),
    Place(webhooks.task_follow_ups, "webhook_secret"),
    Place(schedules.schedules, "params"),
    Place(schedules.schedules, "workflow"),
    Place(schedules.schedules, "follow_up"),
    Place(workflows.workflow_steps, "submission"),
    Place(batches.batch_follow_ups, "on_finished"),
    Place(tasks.task_payloads, "params"),
)
"""Every column that holds stored secrets. Params that are carried on come before those they become."""


def list_rows(place: Place, after: Sequence[Any] | None, pattern: str, limit: int) -> Select[Any]:
    """List the next rows of a table in the order of their primary key, at most `limit`, after a key.

    Returns the columns of the key, and `value`: the text of the column if it matches a regular expression, or NULL.
    """
    value = case((place._value.regexp_match(pattern), place._value), else_=null())
    statement = select(*place._key, value.label("value")).order_by(*place._key).limit(limit)
    return statement if after is None else statement.where(tuple_(*place._key) > tuple_(*after))


def replace_value(place: Place, key: Sequence[Any], before: str, after: str) -> Executable:
    """Replace the text of a column in one row, unless it has changed meanwhile."""
    column = place.table.c[place.column]
    new: Any = cast(literal(after, Text), JSONB) if isinstance(column.type, JSONB) else after
    return update(place.table).where(tuple_(*place._key) == tuple_(*key), place._value == before).values({column: new})
