"""Registers people, verifies their addresses, invites them, and lets them choose new passwords."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auditing.entries import audit
from api.auth.account_emails import email_invitation, email_person
from api.auth.attempts import WINDOW_SECONDS, Attempts, Purpose
from api.auth.auth_models import Registration, address_of
from api.auth.caller import Caller
from api.auth.clients import Client, read_client
from api.auth.passwords import Passwords, require_new_password
from api.auth.sessions import Sessions
from api.http.problems import Problem, invalid
from shared.audit.actions import AuditAction
from shared.identifiers import new_id
from shared.people.email_addresses import SignInAddress
from shared.people.one_use_tokens import token_digest
from shared.queries import organizations as organization_queries
from shared.queries import people as queries
from shared.settings import Settings

CLOSED: Final = (
    "Nobody can register here. Ask the operator to create your account by `taskmill users create`, or to set "
    "TASKMILL_REGISTRATION to `invite` or `open`."
)
INVITED_ONLY: Final = (
    "Only who is invited can register here. Send the `invitation` of the email, or ask an admin for one."
)


class Registrations:
    """Creates people and changes their passwords."""

    def __init__(
        self,
        settings: Settings,
        *,
        engine: AsyncEngine,
        passwords: Passwords,
        attempts: Attempts,
        sessions: Sessions,
    ) -> None:
        self._mode = settings.registration
        self._invitation_days = settings.invitation_days
        self._engine = engine
        self._passwords = passwords
        self._attempts = attempts
        self._sessions = sessions

    async def register(self, body: Registration, client: Client) -> UUID | None:
        """Create a person. Return the id for an invited one, or None if an email was submitted to verify the address.

        If two registrations of an address that nobody has verified name different passwords, neither is accepted: whoever
        verifies the address cannot know which of them is their own, and chooses one by a reset.
        """
        if self._mode == "closed":
            raise Problem("registration-closed", CLOSED)
        if body.invitation is None and self._mode == "invite":
            raise Problem("registration-closed", INVITED_ONLY)
        address = address_of(body.email)
        normalized = require_new_password(body.password, address.address)
        if body.invitation is not None:
            return await self._register_invited(body, address, body.invitation, normalized, client)
        is_sent = await self._attempts.count_email("verify", address.key, client.address)
        password_hash = await self._passwords.hash(normalized)
        async with self._engine.begin() as connection:
            person_id = await self._insert(connection, address, body.name, password_hash, client)
            person = (await connection.execute(queries.find_person(address.key))).one()
        # For a new address too, so that the time of the answer does not tell which have an account.
        is_same = await self._passwords.verify(normalized, person.password_hash)
        async with self._engine.begin() as connection:
            if person_id is None and not is_same:
                await connection.execute(queries.drop_unverified_password(person.id))
            if is_sent:
                await email_person(connection, "verify", address.key, client.request_id)
        return None

    async def insert_of_provider(
        self, connection: AsyncConnection, address: SignInAddress, name: str | None, client: Client
    ) -> UUID:
        """Insert a person whom the sign-in provider knows by a verified address that has no account, and return the id."""
        person_id = await self._insert(connection, address, name, None, client)
        if person_id is None:
            raise Problem("conflict", "Somebody has registered with your address at the same time: sign in again.")
        await connection.execute(queries.verify_email(person_id))
        return person_id

    async def found_organization_if_none(self, connection: AsyncConnection, person: Any) -> None:
        """Create an organization for a person who belongs to none, who becomes its admin."""
        if not (await connection.execute(queries.list_memberships([person.id]))).all():
            await self._found_organization(connection, person)

    async def trust_address(self, connection: AsyncConnection, person: Any, client: Client) -> None:
        """Store that an address is that of its person, because the sign-in provider says so.

        A password of before is dropped if nobody had verified the address: whoever chose it may be somebody else.
        """
        if person.email_verified_at is not None:
            return
        await connection.execute(queries.change_person(person.id, {"password_hash": None}))
        await connection.execute(queries.drop_person_tokens(person.id, "reset", "verify", "challenge"))
        await self._sessions.end_all(connection, person.id, "password_reset", client)
        await connection.execute(queries.verify_email(person.id))
        await self._sessions.note(connection, AuditAction.EMAIL_VERIFIED, person.id, person.id, client)

    async def verify_email(self, token: str, client: Client) -> None:
        """Store that an address is that of its person. Someone without an organization gets one, as its admin."""
        async with self._engine.begin() as connection:
            person_id = await self._use_token(connection, token, "verify")
            person = (await connection.execute(queries.lock_person(person_id))).one()
            await self._accept_address(connection, person, client)

    async def request_email(self, purpose: Purpose, email: str, client: Client) -> None:
        """Submit an email with a token to an address. The work is the same whether anyone has the address or not."""
        key = address_of(email).key
        if not await self._attempts.count_email(purpose, key, client.address):
            return
        async with self._engine.begin() as connection:
            if purpose == "reset":
                person = (await connection.execute(queries.find_person(key))).one_or_none()
                resource = person.id if person is not None else None
                await self._sessions.note(connection, AuditAction.PASSWORD_RESET_REQUESTED, resource, None, client)
            await email_person(connection, purpose, key, client.request_id)

    async def reset_password(self, token: str, password: str, client: Client) -> None:
        """Replace the password of the person to whom a token was sent, and end every session."""
        digest = token_digest("reset", token)
        async with self._engine.connect() as connection:
            found = None if digest is None else (await connection.execute(queries.find_person_token(digest))).first()
        if found is None:
            raise _bad_token("/token")
        normalized = require_new_password(password, found.email)
        password_hash = await self._passwords.hash(normalized)
        async with self._engine.begin() as connection:
            person_id = await self._use_token(connection, token, "reset")
            person = (await connection.execute(queries.lock_person(person_id))).one()
            await self._store_password(connection, person_id, password_hash, client)
            if person.email_verified_at is None:
                await self._accept_address(connection, person, client)
            await self._sessions.note(connection, AuditAction.PASSWORD_RESET, person_id, person_id, client)
            await self._sessions.end_all(connection, person_id, "password_reset", client)
            await email_person(connection, "password_changed", found.email_key, client.request_id)
        await self._attempts.forget(found.email_key, client.address)

    async def change_password(
        self, person_id: UUID, session_id: UUID, confirmed_hash: str, password: str, client: Client
    ) -> None:
        """Replace the password of a signed-in person, and end every other session.

        `confirmed_hash` is that of the password that the person sent. Raises `invalid-credentials` if it was replaced since, such
        as by a reset.
        """
        async with self._engine.connect() as connection:
            person = (await connection.execute(queries.get_person(person_id))).one()
        normalized = require_new_password(password, person.email, "/new_password")
        password_hash = await self._passwords.hash(normalized)
        async with self._engine.begin() as connection:
            locked = (await connection.execute(queries.lock_person(person_id))).one()
            if locked.password_hash != confirmed_hash:
                raise Problem("invalid-credentials", "The password was changed in the meantime.")
            await self._store_password(connection, person_id, password_hash, client)
            await self._sessions.note(connection, AuditAction.PASSWORD_CHANGED, person_id, person_id, client)
            await self._sessions.end_all(connection, person_id, "password_changed", client, but=session_id)
            await email_person(connection, "password_changed", person.email_key, client.request_id)

    async def invite(self, email: str, organization_id: UUID, role: str, request: Request, caller: Caller) -> Any:
        """Store an invitation, and submit its email. Return its row."""
        address = address_of(email)
        if not await self._attempts.count_email("invitation", address.key, read_client(request).address):
            wait = {"Retry-After": str(WINDOW_SECONDS)}
            raise Problem("rate-limited", "This address was sent too many invitations: wait.", headers=wait)
        async with self._engine.begin() as connection:
            person = (await connection.execute(queries.find_person(address.key))).one_or_none()
            if person is None and self._mode == "closed":
                raise Problem("registration-closed", CLOSED)
            if person is not None and await self._is_member(connection, person.id, organization_id):
                raise Problem("conflict", "This person is a member of the organization already.")
            values = {
                "id": new_id(),
                "email": address.address,
                "email_key": address.key,
                "organization_id": organization_id,
                "role": role,
            }
            row = (await connection.execute(queries.insert_invitation(values, self._invitation_days))).one()
            await audit(
                connection, request, caller, AuditAction.PERSON_INVITED, row.id, organization_id, after={"role": role}
            )
            await email_invitation(connection, row.id, request.state.request_id)
            return (await connection.execute(queries.get_invitation(row.id))).one()

    async def accept(self, token: str, person_id: UUID, client: Client) -> UUID:
        """Make a signed-in person a member by an invitation to their address, and return the organization."""
        async with self._engine.begin() as connection:
            invitation = await self._lock_invitation(connection, token)
            person = (await connection.execute(queries.lock_person(person_id))).one()
            if invitation.email_key != person.email_key:
                # The same words as for a wrong token: whom an invitation is for is not for others to know.
                raise _bad_token("/invitation")
            await self._join(connection, invitation, person_id, person.name or person.email, client)
        organization_id: UUID = invitation.organization_id
        return organization_id

    async def _register_invited(
        self, body: Registration, address: SignInAddress, token: str, normalized: str, client: Client
    ) -> UUID:
        async with self._engine.begin() as connection:
            # Looked up before the password is hashed, so that wrong tokens cost no hashing; and again afterwards.
            await self._lock_invitation(connection, token)
        password_hash = await self._passwords.hash(normalized)
        async with self._engine.begin() as connection:
            invitation = await self._lock_invitation(connection, token)
            if invitation.email_key != address.key:
                raise invalid(
                    "/email", "another_address", "The invitation is for another address: register with that one."
                )
            person_id = await self._insert(connection, address, body.name, password_hash, client)
            if person_id is None:
                raise Problem(
                    "conflict",
                    "This address has an account already: sign in, and send the invitation to `POST /invitations/accept`.",
                )
            # The token came by email, so that the address is shown to be the person's.
            await connection.execute(queries.verify_email(person_id))
            await self._join(connection, invitation, person_id, body.name or address.address, client)
        return person_id

    async def _insert(
        self,
        connection: AsyncConnection,
        address: SignInAddress,
        name: str | None,
        password_hash: str | None,
        client: Client,
    ) -> UUID | None:
        """Insert a person, and return the id, or None if the address has an account."""
        values = {
            "id": new_id(),
            "email": address.address,
            "email_key": address.key,
            "name": name,
            "password_hash": password_hash,
        }
        person_id: UUID | None = (await connection.execute(queries.insert_person(values))).scalar_one_or_none()
        if person_id is not None:
            await self._sessions.note(connection, AuditAction.PERSON_REGISTERED, person_id, person_id, client)
        return person_id

    async def _store_password(
        self, connection: AsyncConnection, person_id: UUID, password_hash: str, client: Client
    ) -> None:
        await connection.execute(queries.lock_person(person_id))
        await connection.execute(queries.change_person(person_id, {"password_hash": password_hash}))
        await connection.execute(queries.drop_person_tokens(person_id, "reset", "challenge"))

    async def _use_token(self, connection: AsyncConnection, token: str, purpose: Purpose) -> UUID:
        assert purpose in {"verify", "reset"}
        digest = token_digest("verify" if purpose == "verify" else "reset", token)
        row = None
        if digest is not None:
            row = (await connection.execute(queries.use_person_token(digest, purpose))).one_or_none()
        if row is None:
            raise _bad_token("/token")
        person_id: UUID = row.person_id
        return person_id

    async def _lock_invitation(self, connection: AsyncConnection, token: str) -> Any:
        digest = token_digest("invitation", token)
        row = None if digest is None else (await connection.execute(queries.lock_invitation(digest))).one_or_none()
        if row is None:
            raise _bad_token("/invitation")
        return row

    async def _is_member(self, connection: AsyncConnection, person_id: UUID, organization_id: UUID) -> bool:
        rows = (await connection.execute(queries.list_memberships([person_id]))).all()
        return any(row.organization_id == organization_id for row in rows)

    async def _join(
        self, connection: AsyncConnection, invitation: Any, person_id: UUID, name: str, client: Client
    ) -> None:
        """Make a person a member by a locked invitation, which is used up."""
        await connection.execute(queries.accept_invitation(invitation.id, person_id))
        await self._add_member(connection, person_id, invitation.organization_id, invitation.role, name)
        await self._sessions.note(
            connection,
            AuditAction.MEMBER_ADDED,
            invitation.organization_id,
            person_id,
            client,
            invitation.organization_id,
            after={"person_id": str(person_id), "role": invitation.role},
        )

    async def _accept_address(self, connection: AsyncConnection, person: Any, client: Client) -> None:
        """Store that an address is that of its person. Someone without an organization gets one, as its admin."""
        await connection.execute(queries.verify_email(person.id))
        await self._sessions.note(connection, AuditAction.EMAIL_VERIFIED, person.id, person.id, client)
        await self.found_organization_if_none(connection, person)

    async def _found_organization(self, connection: AsyncConnection, person: Any) -> None:
        """Create an organization with the address as its name, and make the person its admin."""
        organization_id = new_id()
        for name in (person.email_key, f"{person.email_key} {organization_id}"):
            statement = organization_queries.insert_organization(organization_id, name)
            if (await connection.execute(statement)).one_or_none() is not None:
                break
        await self._add_member(connection, person.id, organization_id, "admin", person.name or person.email)

    async def _add_member(
        self, connection: AsyncConnection, person_id: UUID, organization_id: UUID, role: str, name: str
    ) -> None:
        await connection.execute(organization_queries.lock_organization(organization_id))
        await connection.execute(organization_queries.insert_membership(person_id, organization_id, role))
        await connection.execute(organization_queries.ensure_person_caller(new_id(), person_id, organization_id, name))


def _bad_token(pointer: str) -> Problem:
    return invalid(
        pointer, "invalid_token", "The token is wrong, was used before, or has expired: ask for another one."
    )
