"""API keys. A key is shown once, when it is created; only its prefix and its SHA-256 are stored."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from shared.audit.actions import AuditAction
from shared.audit.entries import COMMAND_LINE, Actor, Entry, write_entry
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.permissions import (
    DEFAULT_SCOPES,
    ORGANIZATION_ROLES,
    PLATFORM_ROLES,
    SCOPES,
    OrganizationRole,
    PlatformRole,
    allowed_scopes,
)
from shared.queries import callers as queries
from shared.settings import Settings

T = TypeVar("T")
Role = OrganizationRole
PREFIX_CHARACTERS: Final = 12
MAX_KEY_CHARACTERS: Final = 200
LOCAL_ADMIN: Final = "local-admin"
_DURATION: Final = re.compile(r"([0-9]{1,5})([dh])")


@dataclass(frozen=True)
class CreatedKey:
    """A key that was just made. `key` is the secret itself, which is stored nowhere."""

    id: UUID
    key: str
    name: str
    role: OrganizationRole
    platform_role: PlatformRole | None
    scopes: tuple[str, ...]
    organization_id: UUID
    caller_id: UUID
    expires_at: datetime | None


@dataclass(frozen=True)
class KnownKey:
    """A key as it is listed: without the secret. `last_used_at` is right to the minute."""

    id: UUID
    prefix: str
    name: str
    organization: str
    role: OrganizationRole
    platform_role: PlatformRole | None
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


def new_key() -> str:
    """Return a new random key, `tm_<prefix>_<secret>`: 48 bits to find its row by, and 256 bits of secret."""
    return f"tm_{secrets.token_hex(PREFIX_CHARACTERS // 2)}_{secrets.token_urlsafe(32)}"


def key_prefix(key: str) -> str | None:
    """Return the prefix that a key's row is found by, or None when the text cannot be a key."""
    if len(key) > MAX_KEY_CHARACTERS or not key.startswith("tm_"):
        return None
    prefix, _, secret = key[3:].partition("_")
    return prefix if len(prefix) == PREFIX_CHARACTERS and secret else None


def key_digest(key: str) -> bytes:
    """Return the SHA-256 of a key, which is what is stored. A key is random and long, so that no slow hash is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def create_key(
    settings: Settings,
    name: str,
    role: Role = "client",
    scopes: Iterable[str] | None = None,
    organization: str | None = None,
    expires_at: datetime | None = None,
    *,
    organization_only: bool = False,
) -> CreatedKey:
    """Create a key for the caller of that name, and the caller and its organization if there are none.

    A caller belongs to an organization, by default one of its own name: callers of different names see nothing of each
    other. A second key for a name, such as one that replaces an older key, sees what the first does.

    The roles `operator` and `admin` are platform roles too, which reach every organization, unless `organization_only` is set:
    then they hold for what belongs to the organization of the caller alone.

    Raises `ValueError` for an unknown role or scope, for a scope that the role does not have, and for an `expires_at` that is
    not ahead.
    """

    def insert(connection: Connection) -> CreatedKey:
        return insert_key(
            connection,
            new_key(),
            name,
            role,
            scopes,
            organization,
            expires_at,
            organization_only=organization_only,
        )

    return _with_connection(settings, insert)


def insert_key(
    connection: Connection,
    key: str,
    name: str,
    role: Role = "client",
    scopes: Iterable[str] | None = None,
    organization: str | None = None,
    expires_at: datetime | None = None,
    *,
    organization_only: bool = False,
    actor: Actor = COMMAND_LINE,
) -> CreatedKey:
    """Store a given key, which `actor` makes; see `create_key`."""
    if role not in ORGANIZATION_ROLES:
        raise ValueError(f"unknown role {role!r}: one of {', '.join(ORGANIZATION_ROLES)}")
    platform_role = next((name for name in PLATFORM_ROLES if name == role and not organization_only), None)
    chosen = tuple(scopes) if scopes is not None else DEFAULT_SCOPES[role]
    if unknown := set(chosen) - set(SCOPES):
        raise ValueError(f"unknown scopes {', '.join(sorted(unknown))}: the scopes are {', '.join(SCOPES)}")
    if beyond := set(chosen) - set(allowed_scopes(role, platform_role)):
        raise ValueError(f"the role {role} does not have the scope {', '.join(sorted(beyond))}: choose another role")
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise ValueError("a name has 1 to 200 characters, and no control characters")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise ValueError(f"{expires_at.isoformat(timespec='seconds')} is over: a key must expire in the future")
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
    connection.execute(
        queries.insert_api_key(
            key_id, caller_id, name, prefix, key_digest(key), role, platform_role, list(chosen), expires_at
        )
    )
    after = {
        "caller_id": str(caller_id),
        "role": role,
        "platform_role": platform_role,
        "scopes": chosen,
        "expires_at": expires_at,
    }
    write_entry(connection, Entry(actor, AuditAction.API_KEY_CREATED, key_id, organization_id, after=after))
    return CreatedKey(key_id, key, name, role, platform_role, chosen, organization_id, caller_id, expires_at)


def ensure_first_admin_key(settings: Settings, key: str) -> None:
    """Store a key as the local admin's, unless it is stored already."""

    def ensure(connection: Connection) -> None:
        prefix = key_prefix(key)
        if prefix is None or not connection.execute(queries.has_api_key(prefix)).scalar_one():
            insert_key(connection, key, LOCAL_ADMIN, "admin")

    _with_connection(settings, ensure)


def list_keys(settings: Settings) -> list[KnownKey]:
    """Return every key, revoked ones too, oldest first."""

    def read(connection: Connection) -> list[KnownKey]:
        rows = connection.execute(queries.list_api_keys())
        return [KnownKey(**{**row._mapping, "scopes": tuple(row.scopes)}) for row in rows]

    return _with_connection(settings, read)


def revoke_key(settings: Settings, id_or_prefix: str) -> bool:
    """Revoke a key by its id or prefix. Return False when there is none, or it is revoked already."""
    try:
        condition: UUID | str = UUID(id_or_prefix)
    except ValueError:
        condition = id_or_prefix.removeprefix("tm_").partition("_")[0]

    def revoke(connection: Connection) -> bool:
        row = connection.execute(queries.revoke_api_key(condition)).one_or_none()
        if row is None:
            return False
        write_entry(connection, Entry(COMMAND_LINE, AuditAction.API_KEY_REVOKED, row.id, row.organization_id))
        return True

    return _with_connection(settings, revoke)


def read_expiry(text: str, now: datetime) -> datetime:
    """Return the moment that a text names: a number of days or hours from now (`90d`, `12h`), or a date or time in ISO 8601.

    A date is its first moment, and a time without an offset is taken as UTC. Raises `ValueError` for anything else.
    """
    if found := _DURATION.fullmatch(text):
        return now + timedelta(**{"hours" if found[2] == "h" else "days": int(found[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a duration, such as 90d or 12h, nor a date, such as 2027-06-30"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _with_connection(settings: Settings, work: Callable[[Connection], T]) -> T:
    engine = make_engine(settings, "keys", pool_size=1)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()
