"""Writes entries of the audit log: who did what, to which resource, from where.

An entry is written in the transaction that does the thing, so that one is never stored without the other. It holds ids and no
names, and never a secret, a password, params, results or the content of a file: `before` and `after` hold small values, such as
a role or a limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import orjson
from sqlalchemy import Connection

from shared.audit.actions import AuditAction
from shared.identifiers import new_id
from shared.queries.audit import INSERT_ENTRY

ActorType = Literal["key", "person", "command", "platform", "anonymous"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where.

    A request with an API key has the type `key`, one of a signed-in person `person`, one without valid credentials `anonymous`.
    `command` is the command line, and `platform` what the platform does by itself.
    """

    type: ActorType
    caller_id: UUID | None = None
    person_id: UUID | None = None
    api_key_id: UUID | None = None
    address: str | None = None
    request_id: str | None = None


COMMAND_LINE: Final = Actor("command")
PLATFORM: Final = Actor("platform")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry before it is written.

    `organization_id` is whose the resource is, and None if it is the platform's: the admins of that organization read the
    entry. `before` and `after` are at most 8 KiB of JSON each.
    """

    actor: Actor
    action: AuditAction
    resource_id: UUID | str | None
    organization_id: UUID | None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `INSERT_ENTRY`, for transactions on a connection of psycopg."""
        return {
            "id": new_id(),
            "actor_type": self.actor.type,
            "caller_id": self.actor.caller_id,
            "person_id": self.actor.person_id,
            "api_key_id": self.actor.api_key_id,
            "action": self.action.value,
            "resource_type": self.action.resource_type,
            "resource_id": None if self.resource_id is None else str(self.resource_id),
            "organization_id": self.organization_id,
            "address": self.actor.address,
            "request_id": self.actor.request_id,
            "before": _dump(self.before),
            "after": _dump(self.after),
        }


def write_entry(connection: Connection, entry: Entry) -> None:
    """Write an entry in the transaction of the connection."""
    connection.exec_driver_sql(INSERT_ENTRY, entry.parameters())


def _dump(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else orjson.dumps(values).decode()
