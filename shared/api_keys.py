"""API keys. A key is shown once, when it is created; only its prefix and its SHA-256 are stored."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Protocol, TypeVar
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
from shared.queries import organizations as organization_queries
from shared.settings import Settings

T = TypeVar("T")
Role = OrganizationRole
IpNetwork = IPv4Network | IPv6Network
PREFIX_CHARACTERS: Final = 12
SECRET_CHARACTERS: Final = 43
CHECKSUM_CHARACTERS: Final = 6
KEY_PATTERN: Final = re.compile(r"tm_[0-9a-f]{12}_[0-9A-Za-z]{49}")
"""The form of keys with a checksum."""
_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
MAX_KEY_CHARACTERS: Final = 200
MAX_NAME_CHARACTERS: Final = 200
MAX_NETWORKS: Final = 50
LOCAL_ADMIN: Final = "local-admin"
_DURATION: Final = re.compile(r"([0-9]{1,5})([dh])")


@dataclass(frozen=True)
class KeyGrant:
    """What a key may do, until when, and from where."""

    role: OrganizationRole
    platform_role: PlatformRole | None
    scopes: tuple[str, ...]
    expires_at: datetime | None = None
    networks: tuple[IpNetwork, ...] | None = None
    """The networks from which the key is accepted, or None for all."""


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
    networks: tuple[IpNetwork, ...] | None = None


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
    last_used_network: IpNetwork | None
    expires_at: datetime | None
    revoked_at: datetime | None
    networks: tuple[IpNetwork, ...] | None


def new_key() -> str:
    """Return a new random key, `tm_<prefix>_<secret><checksum>`.

    The prefix has 48 bits, by which the key's row is found; the secret 43 letters and digits, which are 256 bits; the checksum
    is the CRC-32 of all that, as six letters and digits. So a scanner tells a key from a text that looks like one, and finds
    it as one word: `KEY_PATTERN`.
    """
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARACTERS))
    body = f"tm_{secrets.token_hex(PREFIX_CHARACTERS // 2)}_{secret}"
    return body + _checksum(body)


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode("ascii")), ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def key_prefix(key: str) -> str | None:
    """Return the prefix that a key's row is found by, or None when the text cannot be a key.

    A key with a checksum is refused if that is wrong. Keys of the time before checksums have a secret of another length.
    """
    if len(key) > MAX_KEY_CHARACTERS or not key.startswith("tm_"):
        return None
    prefix, _, secret = key[3:].partition("_")
    if len(prefix) != PREFIX_CHARACTERS or not secret:
        return None
    if KEY_PATTERN.fullmatch(key) is not None and _checksum(key[:-CHECKSUM_CHARACTERS]) != key[-CHECKSUM_CHARACTERS:]:
        return None
    return prefix


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
    networks: Iterable[str] | None = None,
) -> CreatedKey:
    """Create a key for the caller of that name, and the caller and its organization if there are none.

    A caller belongs to an organization, by default one of its own name: callers of different names see nothing of each
    other. A second key for a name, such as one that replaces an older key, sees what the first does.

    The roles `operator` and `admin` are platform roles too, which reach every organization, unless `organization_only` is set:
    then they hold for what belongs to the organization of the caller alone.

    Raises `ValueError` for an unknown role or scope, for a scope that the role does not have, for an `expires_at` that is not
    ahead, and for what is no network.
    """
    platform_role = next((one for one in PLATFORM_ROLES if one == role and not organization_only), None)
    grant = KeyGrant(
        role,
        platform_role,
        tuple(scopes) if scopes is not None else DEFAULT_SCOPES.get(role, ()),
        expires_at,
        read_networks(networks) if networks is not None else None,
    )
    return _with_connection(settings, lambda c: insert_key(c, new_key(), name, grant, organization))


def insert_key(
    connection: Connection,
    key: str,
    name: str,
    grant: KeyGrant,
    organization: str | None = None,
    *,
    actor: Actor = COMMAND_LINE,
) -> CreatedKey:
    """Store a given key for the caller of that name, which `actor` makes; see `create_key`."""
    require_valid_grant(grant)
    require_valid_name(name)
    organization_id: UUID = connection.execute(queries.ensure_organization(new_id(), organization or name)).scalar_one()
    caller_id = ensure_service(connection, organization_id, name)
    created = issue_key(connection, caller_id, organization_id, name, grant, key=key)
    write_entry(connection, describe_key_entry(actor, AuditAction.API_KEY_CREATED, created))
    return created


def ensure_service(connection: Connection, organization_id: UUID, name: str) -> UUID:
    """Return the id of the service of that name in an organization, which is made if there is none."""
    connection.execute(organization_queries.lock_organization(organization_id))
    caller_id = connection.execute(queries.find_service(organization_id, name)).scalars().first()
    if caller_id is None:
        caller_id = new_id()
        connection.execute(queries.insert_caller(caller_id, organization_id, name))
    return caller_id


def issue_key(
    connection: Connection,
    caller_id: UUID,
    organization_id: UUID,
    name: str,
    grant: KeyGrant,
    *,
    created_by: UUID | None = None,
    replaces_id: UUID | None = None,
    key: str | None = None,
) -> CreatedKey:
    """Store a key of a caller, by default a new one. Raises `ValueError` for a text that cannot be a key."""
    key = key if key is not None else new_key()
    prefix = key_prefix(key)
    if prefix is None:
        raise ValueError("a key has the form tm_<prefix>_<secret>")
    key_id = new_id()
    values = {
        "id": key_id,
        "caller_id": caller_id,
        "name": name,
        "prefix": prefix,
        "sha256": key_digest(key),
        "created_by": created_by,
        "replaces_id": replaces_id,
    }
    connection.execute(queries.insert_api_key(values, grant))
    return CreatedKey(
        key_id,
        key,
        name,
        grant.role,
        grant.platform_role,
        grant.scopes,
        organization_id,
        caller_id,
        grant.expires_at,
        grant.networks,
    )


def require_valid_grant(grant: KeyGrant) -> None:
    """Raise `ValueError` for an unknown role or scope, for a scope beyond the role, and for an expiry that is not ahead."""
    if grant.role not in ORGANIZATION_ROLES:
        raise ValueError(f"unknown role {grant.role!r}: one of {', '.join(ORGANIZATION_ROLES)}")
    if unknown := set(grant.scopes) - set(SCOPES):
        raise ValueError(f"unknown scopes {', '.join(sorted(unknown))}: the scopes are {', '.join(SCOPES)}")
    if beyond := set(grant.scopes) - set(allowed_scopes(grant.role, grant.platform_role)):
        raise ValueError(
            f"the role {grant.role} does not have the scope {', '.join(sorted(beyond))}: choose another role"
        )
    if grant.expires_at is not None and grant.expires_at <= datetime.now(UTC):
        moment = grant.expires_at.isoformat(timespec="seconds")
        raise ValueError(f"{moment} is over: a key must expire in the future")


def require_valid_name(name: str) -> None:
    """Raise `ValueError` for a name that is empty, too long, or has control characters."""
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise ValueError(f"a name has 1 to {MAX_NAME_CHARACTERS} characters, and no control characters")


def read_networks(texts: Iterable[str]) -> tuple[IpNetwork, ...]:
    """Return the networks that texts such as `203.0.113.0/24` or `2001:db8::1` name. Raises `ValueError`."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is no network, such as 203.0.113.0/24 or 2001:db8::/48: {error}") from None
    if not 1 <= len(networks) <= MAX_NETWORKS:
        raise ValueError(f"a key is restricted to 1 to {MAX_NETWORKS} networks")
    return tuple(dict.fromkeys(networks))


def rotate_key(
    connection: Connection,
    stored: StoredKey,
    overlap: timedelta,
    *,
    latest: datetime | None = None,
    created_by: UUID | None = None,
) -> CreatedKey:
    """Store a key that replaces another of the same caller, with the same name, rights, networks and length of life.

    It expires at `latest` at the latest, if that is given. The other key is accepted for the overlap, unless it expires
    earlier. `stored` is a row of `queries.lock_api_key`.
    """
    life = None if stored.expires_at is None else stored.expires_at - stored.created_at
    ends = [moment for moment in (latest, None if life is None else datetime.now(UTC) + life) if moment is not None]
    grant = KeyGrant(
        stored.role,
        stored.platform_role,
        tuple(stored.scopes),
        min(ends, default=None),
        None if stored.networks is None else tuple(stored.networks),
    )
    created = issue_key(
        connection,
        stored.caller_id,
        stored.organization_id,
        stored.name,
        grant,
        created_by=created_by,
        replaces_id=stored.id,
    )
    connection.execute(queries.end_api_key(stored.id, overlap))
    return created


class StoredKey(Protocol):
    """A row of `queries.select_api_keys`."""

    id: UUID
    prefix: str
    name: str
    caller_id: UUID
    organization_id: UUID
    role: OrganizationRole
    platform_role: PlatformRole | None
    scopes: Sequence[str]
    networks: Sequence[IpNetwork] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def describe_key_entry(actor: Actor, action: AuditAction, key: CreatedKey) -> Entry:
    """Return the audit entry about a key that was made."""
    after = {
        "caller_id": str(key.caller_id),
        "role": key.role,
        "platform_role": key.platform_role,
        "scopes": list(key.scopes),
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(timespec="seconds"),
        "networks": None if key.networks is None else [str(network) for network in key.networks],
    }
    return Entry(actor, action, key.id, key.organization_id, after=after)


def ensure_first_admin_key(settings: Settings, key: str) -> None:
    """Store a key as the local admin's, unless it is stored already."""

    def ensure(connection: Connection) -> None:
        prefix = key_prefix(key)
        if prefix is None or not connection.execute(queries.has_api_key(prefix)).scalar_one():
            insert_key(connection, key, LOCAL_ADMIN, KeyGrant("admin", "admin", DEFAULT_SCOPES["admin"]))

    _with_connection(settings, ensure)


def list_keys(settings: Settings) -> list[KnownKey]:
    """Return every key, revoked ones too, oldest first."""

    def read(connection: Connection) -> list[KnownKey]:
        rows = connection.execute(queries.select_api_keys().order_by(queries.KEY_ID))
        return [_known(row) for row in rows]

    return _with_connection(settings, read)


def _known(row: Any) -> KnownKey:
    values: dict[str, Any] = {field.name: getattr(row, field.name) for field in fields(KnownKey)}
    networks = None if row.networks is None else tuple(row.networks)
    return KnownKey(**{**values, "scopes": tuple(row.scopes), "networks": networks})


def revoke_key(settings: Settings, id_or_prefix: str) -> bool:
    """Revoke a key by its id or prefix. Return False when there is none, or it is revoked already."""

    def revoke(connection: Connection) -> bool:
        stored = _lock_key(connection, id_or_prefix)
        if stored is None or stored.revoked_at is not None:
            return False
        connection.execute(queries.revoke_api_key(stored.id))
        entry = Entry(COMMAND_LINE, AuditAction.API_KEY_REVOKED, stored.id, stored.organization_id)
        write_entry(connection, entry)
        return True

    return _with_connection(settings, revoke)


def replace_key(settings: Settings, id_or_prefix: str, overlap: timedelta) -> CreatedKey | None:
    """Replace a key by a new one, and accept it for the overlap. Return None when there is no such valid key."""

    def replace(connection: Connection) -> CreatedKey | None:
        stored = _lock_key(connection, id_or_prefix)
        if stored is None or is_over(stored):
            return None
        created = rotate_key(connection, stored, overlap)
        write_entry(connection, describe_key_entry(COMMAND_LINE, AuditAction.API_KEY_ROTATED, created))
        return created

    return _with_connection(settings, replace)


def is_over(key: StoredKey) -> bool:
    """Return whether a key is revoked or has expired."""
    return key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= datetime.now(UTC))


def _lock_key(connection: Connection, id_or_prefix: str) -> StoredKey | None:
    try:
        condition: UUID | str = UUID(id_or_prefix)
    except ValueError:
        condition = id_or_prefix.removeprefix("tm_").partition("_")[0]
    return connection.execute(queries.lock_api_key(condition)).one_or_none()


def read_overlap(text: str) -> timedelta:
    """Return the time that a text such as `24h`, `2d` or `0h` names. Raises `ValueError` for anything else."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration, such as 24h or 2d")
    return timedelta(**{"hours" if found[2] == "h" else "days": int(found[1])})


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
