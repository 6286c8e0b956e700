"""Writes entries of the audit log for requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import HTTPConnection

from api.auth.caller import Caller
from shared.audit.actions import AuditAction
from shared.audit.entries import Actor, ActorType, Entry
from shared.networks import read_address
from shared.queries.audit import INSERT_ENTRY


def describe_actor(request: HTTPConnection, caller: Caller | None) -> Actor:
    """Return who makes a request, and from where: the address that the trusted proxies report. `caller` is None for nobody."""
    address, request_id = find_address(request), getattr(request.state, "request_id", None)
    if caller is None:
        return Actor("anonymous", address=address, request_id=request_id)
    kind: ActorType = "key" if caller.session_id is None else "person"
    return Actor(kind, caller.owner_id, caller.person_id, caller.key_id, address, request_id)


async def audit(
    connection: AsyncConnection,
    request: HTTPConnection,
    caller: Caller | None,
    action: AuditAction,
    resource_id: UUID | str | None,
    organization_id: UUID | None,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write what a request does, in the transaction that does it. `shared/audit/entries.py` explains the arguments."""
    entry = Entry(describe_actor(request, caller), action, resource_id, organization_id, before, after)
    await write_entry(connection, entry)


async def write_entry(connection: AsyncConnection, entry: Entry) -> None:
    """Write an entry in the transaction of the connection."""
    await connection.exec_driver_sql(INSERT_ENTRY, entry.parameters())


def find_address(request: HTTPConnection) -> str | None:
    """Return the address of the client, or None if there is none, as with a Unix socket."""
    address = read_address(request.client.host if request.client is not None else None)
    return None if address is None else str(address)
