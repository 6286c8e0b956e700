"""API keys: made once, shown once, known afterwards only by a prefix and a SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.queries import callers as queries
from shared.settings import Settings

T = TypeVar("T")
Role = Literal["client", "operator", "admin"]
SCOPES: Final = ("tasks:read", "tasks:write", "files:read", "files:write", "admin")
DEFAULT_SCOPES: Final[dict[Role, tuple[str, ...]]] = {
    "client": SCOPES[:4],
    "operator": SCOPES[:4],
    "admin": SCOPES,
}
PREFIX_CHARACTERS: Final = 12
LOCAL_ADMIN: Final = "local-admin"


@dataclass(frozen=True)
class CreatedKey:
    """A key that was just made; `key` is the secret itself, to be shown this once."""

    id: UUID
    key: str
    name: str
    role: Role
    scopes: tuple[str, ...]
    organization_id: UUID
    caller_id: UUID


@dataclass(frozen=True)
class KnownKey:
    """A key as it can be listed: without the secret."""

    id: UUID
    prefix: str
    name: str
    organization: str
    role: Role
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def new_key() -> str:
    """Make a random key, `tm_<prefix>_<secret>`: 48 bits to find it by, 256 to keep it."""
    return f"tm_{secrets.token_hex(PREFIX_CHARACTERS // 2)}_{secrets.token_urlsafe(32)}"


def key_prefix(key: str) -> str | None:
    """Give the part that finds a key's row; none when the text cannot be a key."""
    if len(key) > 200 or not key.startswith("tm_"):
        return None
    prefix, _, secret = key[3:].partition("_")
    return prefix if len(prefix) == PREFIX_CHARACTERS and secret else None


def key_digest(key: str) -> bytes:
    """Give what is stored of a key. It is random and long, so no slow hash is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def create_key(
    settings: Settings,
    name: str,
    role: Role = "client",
    scopes: Iterable[str] | None = None,
    organization: str | None = None,
) -> CreatedKey:
    """Make a key for the caller of that name, who is made if need be.

    A caller lives in an organization, by default one of the same name: so two names see nothing of each other, and a
    second key for a name (to change keys) sees what the first does. Raises `ValueError` for an unknown role or
    scope, and for a scope that the role does not have.
    """
    return _with_connection(settings, lambda c: insert_key(c, new_key(), name, role, scopes, organization))


def insert_key(
    connection: Connection,
    key: str,
    name: str,
    role: Role = "client",
    scopes: Iterable[str] | None = None,
    organization: str | None = None,
) -> CreatedKey:
    """Store a key that was made elsewhere; see `create_key`."""
    if role not in DEFAULT_SCOPES:
        raise ValueError(f"unknown role {role!r}: one of {', '.join(DEFAULT_SCOPES)}")
    chosen = tuple(scopes) if scopes is not None else DEFAULT_SCOPES[role]
    if unknown := set(chosen) - set(SCOPES):
        raise ValueError(f"unknown scopes {', '.join(sorted(unknown))}: of {', '.join(SCOPES)}")
    if beyond := set(chosen) - set(DEFAULT_SCOPES[role]):
        raise ValueError(f"the role {role} does not have the scope {', '.join(sorted(beyond))}: choose another role")
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise ValueError("a name has 1 to 200 characters, and no control characters")
    prefix = key_prefix(key)
    if prefix is None:
        raise ValueError("a key has the form tm_<prefix>_<secret>")
    organization_id: UUID = connection.execute(queries.ensure_organization(new_id(), organization or name)).scalar_one()
    connection.execute(queries.lock_organization(organization_id))
    caller_id = connection.execute(queries.find_caller(organization_id, name)).scalars().first()
    if caller_id is None:
        caller_id = new_id()
        connection.execute(queries.insert_caller(caller_id, organization_id, name))
    key_id = new_id()
    connection.execute(queries.insert_api_key(key_id, caller_id, name, prefix, key_digest(key), role, list(chosen)))
    return CreatedKey(key_id, key, name, role, chosen, organization_id, caller_id)


def ensure_first_admin_key(settings: Settings, key: str) -> None:
    """Store a key as the local admin's, unless it is stored already."""

    def ensure(connection: Connection) -> None:
        prefix = key_prefix(key)
        if prefix is None or not connection.execute(queries.has_api_key(prefix)).scalar_one():
            insert_key(connection, key, LOCAL_ADMIN, "admin")

    _with_connection(settings, ensure)


def list_keys(settings: Settings) -> list[KnownKey]:
    """Give every key, revoked ones too, oldest first."""

    def read(connection: Connection) -> list[KnownKey]:
        rows = connection.execute(queries.list_api_keys())
        return [KnownKey(**{**row._mapping, "scopes": tuple(row.scopes)}) for row in rows]

    return _with_connection(settings, read)


def revoke_key(settings: Settings, id_or_prefix: str) -> bool:
    """Revoke a key by its id or prefix, at once and for good. False when there is none, or it is revoked already."""
    try:
        condition: UUID | str = UUID(id_or_prefix)
    except ValueError:
        condition = id_or_prefix.removeprefix("tm_").partition("_")[0]
    return _with_connection(settings, lambda c: c.execute(queries.revoke_api_key(condition)).rowcount > 0)


def _with_connection(settings: Settings, work: Callable[[Connection], T]) -> T:
    engine = make_engine(settings, "keys", pool_size=1)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()
