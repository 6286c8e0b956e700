"""Creates people from the command line: the first admin, and everybody where registration is closed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from shared.audit.actions import AuditAction
from shared.audit.entries import COMMAND_LINE, PLATFORM, Entry, write_entry
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.people.email_addresses import parse_sign_in_address
from shared.people.passwords import PasswordHasher, UnacceptablePassword, check_new_password
from shared.people.signing_keys import OVERLAP, new_signing_key
from shared.permissions import OrganizationRole
from shared.queries import callers as caller_queries
from shared.queries import organizations as organization_queries
from shared.queries import people as queries
from shared.queries import sessions as session_queries
from shared.settings import Settings
from shared.stored_secrets import SecretCipher

MAX_LISTED: Final = 10_000
LOCAL_ADMIN_EMAIL: Final = "admin@localhost"
"""The sign-in name of the admin of the local stack."""


@dataclass(frozen=True)
class CreatedPerson:
    """A person who was just created. `password` is shown once."""

    id: UUID
    email: str
    password: str
    organization_id: UUID


def create_person(
    settings: Settings,
    email: str,
    *,
    password: str | None = None,
    name: str | None = None,
    organization: str | None = None,
    role: OrganizationRole = "client",
    is_platform_admin: bool = False,
) -> CreatedPerson:
    """Create a person who can sign in at once, with a random password unless one is given.

    The person belongs to the organization of that name, which is created if there is none, by default one with the address as its
    name. Raises `ValueError` for an address that is unusable or has an account, and for an unacceptable password.
    """
    address = parse_sign_in_address(email)
    chosen = password if password is not None else secrets.token_urlsafe(18)
    try:
        normalized = check_new_password(chosen, address.address)
    except UnacceptablePassword as error:
        raise ValueError(str(error)) from None
    values = {
        "id": new_id(),
        "email": address.address,
        "email_key": address.key,
        "name": name,
        "password_hash": PasswordHasher(settings).hash(normalized),
        "platform_role": "admin" if is_platform_admin else None,
    }
    engine = make_engine(settings, "users", pool_size=1)
    try:
        with engine.begin() as connection:
            person_id = connection.execute(queries.insert_person(values)).scalar_one_or_none()
            if person_id is None:
                raise ValueError(f"{address.address} has an account already")
            connection.execute(queries.verify_email(person_id))
            organization_id = _join(connection, person_id, organization or address.key, role, name or address.address)
            after = {"platform_role": values["platform_role"], "role": role}
            entry = Entry(COMMAND_LINE, AuditAction.PERSON_REGISTERED, person_id, organization_id, after=after)
            write_entry(connection, entry)
    finally:
        engine.dispose()
    return CreatedPerson(person_id, address.address, chosen, organization_id)


def has_person(settings: Settings, email: str) -> bool:
    """Return whether an address has an account."""
    engine = make_engine(settings, "users", pool_size=1)
    try:
        with engine.connect() as connection:
            return connection.execute(queries.find_person(parse_sign_in_address(email).key)).first() is not None
    finally:
        engine.dispose()


def replace_password(settings: Settings, email: str, password: str | None = None) -> str:
    """Replace the password of a person, by default with a random one, end every session, and return the password.

    Tokens in emails that were sent before are refused. The second factor stays. Raises `ValueError` for an address without an
    account, and for an unacceptable password.
    """
    address = parse_sign_in_address(email)
    chosen = password if password is not None else secrets.token_urlsafe(18)
    try:
        password_hash = PasswordHasher(settings).hash(check_new_password(chosen, address.address))
    except UnacceptablePassword as error:
        raise ValueError(str(error)) from None
    engine = make_engine(settings, "users", pool_size=1)
    try:
        with engine.begin() as connection:
            person = connection.execute(queries.find_person(address.key)).one_or_none()
            if person is None:
                raise ValueError(f"{address.address} has no account: create it by `taskmill users create`")
            connection.execute(queries.change_person(person.id, {"password_hash": password_hash}))
            connection.execute(queries.verify_email(person.id))
            connection.execute(queries.drop_person_tokens(person.id, "reset", "challenge"))
            connection.execute(session_queries.end_sessions(person.id, "password_reset"))
            connection.execute(organization_queries.raise_security_version(person.id))
            write_entry(connection, Entry(COMMAND_LINE, AuditAction.PASSWORD_RESET, person.id, None))
    finally:
        engine.dispose()
    return chosen


def remove_second_factor(settings: Settings, email: str) -> None:
    """Delete the second factor of a person who has lost both the app and the recovery codes.

    Sessions and the password stay. Raises `ValueError` for an address without an account or without a second factor.
    """
    address = parse_sign_in_address(email)
    engine = make_engine(settings, "users", pool_size=1)
    try:
        with engine.begin() as connection:
            person = connection.execute(queries.find_person(address.key)).one_or_none()
            if person is None:
                raise ValueError(f"{address.address} has no account: create it by `taskmill users create`")
            if connection.execute(queries.delete_second_factor(person.id)).rowcount == 0:
                raise ValueError(f"{address.address} has no second factor")
            connection.execute(queries.delete_recovery_codes(person.id))
            write_entry(connection, Entry(COMMAND_LINE, AuditAction.SECOND_FACTOR_DISABLED, person.id, None))
    finally:
        engine.dispose()


def list_people(settings: Settings) -> list[dict[str, str | None]]:
    """Return everybody, newest first, as texts."""
    engine = make_engine(settings, "users", pool_size=1)
    try:
        with engine.connect() as connection:
            rows = connection.execute(queries.list_people(None, MAX_LISTED)).all()
    finally:
        engine.dispose()
    return [
        {
            "id": str(row.id),
            "email": row.email,
            "platform_role": row.platform_role,
            "second_factor": "yes" if row.has_second_factor else "no",
            "last_seen": f"{row.last_seen_at:%Y-%m-%d %H:%M}" if row.last_seen_at is not None else "never",
            "state": "disabled" if row.disabled_at is not None else "enabled",
        }
        for row in rows
    ]


def rotate_now(settings: Settings) -> None:
    """Replace the key that signs access tokens, and audit that a command did."""
    engine = make_engine(settings, "users", pool_size=1)
    try:
        with engine.begin() as connection:
            rotate_signing_key(connection, settings)
            write_entry(connection, Entry(COMMAND_LINE, AuditAction.SIGNING_KEY_ROTATED, None, None))
    finally:
        engine.dispose()


def rotate_signing_key(connection: Connection, settings: Settings, *, only_if_due: bool = False) -> bool:
    """Replace the key that signs access tokens, and return whether a new one was made.

    Tokens of the key before are accepted until they expire. With `only_if_due`, a key younger than `signing_key_days` stays.
    """
    connection.execute(session_queries.lock_signing_keys())
    current = connection.execute(session_queries.find_current_signing_key(settings.signing_key_days)).one_or_none()
    if only_if_due and (current is None or not current.is_due):
        return False
    made = new_signing_key(SecretCipher(settings))
    connection.execute(session_queries.retire_signing_key(OVERLAP))
    connection.execute(session_queries.insert_signing_key(made.id, made.public_key, made.private_key))
    connection.execute(session_queries.drop_old_signing_keys())
    write_entry(connection, Entry(PLATFORM, AuditAction.SIGNING_KEY_ROTATED, made.id, None))
    return True


def _join(connection: Connection, person_id: UUID, organization: str, role: str, caller_name: str) -> UUID:
    statement = caller_queries.ensure_organization(new_id(), organization)
    organization_id: UUID = connection.execute(statement).scalar_one()
    connection.execute(organization_queries.lock_organization(organization_id))
    connection.execute(organization_queries.insert_membership(person_id, organization_id, role))
    connection.execute(organization_queries.ensure_person_caller(new_id(), person_id, organization_id, caller_name))
    return organization_id
