"""Signs people in: with a password, and with a second factor where there is one."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auth.attempts import Attempts
from api.auth.auth_models import Challenge, RecoveryCodes, SecondFactor, Tokens
from api.auth.clients import Client
from api.auth.passwords import Passwords
from api.auth.sessions import Sessions
from api.http.problems import Problem, invalid
from shared.audit.actions import AuditAction
from shared.people.email_addresses import find_address_key
from shared.people.one_use_tokens import new_token, token_digest
from shared.people.totp import (
    find_step,
    new_recovery_codes,
    new_secret,
    normalize_recovery_code,
    provisioning_uri,
    recovery_code_digest,
)
from shared.permissions import allowed_scopes
from shared.queries import people as queries
from shared.stored_secrets import SecretCipher

CHALLENGE_SECONDS: Final = 300
MAX_CHALLENGE_TRIES: Final = 5
ISSUER: Final = "Taskmill"


class SignIn:
    """Checks passwords and second factors, and begins sessions."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        reads: AsyncEngine,
        passwords: Passwords,
        attempts: Attempts,
        sessions: Sessions,
        cipher: SecretCipher,
    ) -> None:
        self._engine = engine
        self._reads = reads
        self._passwords = passwords
        self._attempts = attempts
        self._sessions = sessions
        self._cipher = cipher

    async def with_password(
        self, email: str, password: str, scopes: Sequence[str], organization: str | None, client: Client
    ) -> Tokens | Challenge:
        """Return the tokens of a new session, or the challenge of a second factor.

        An unknown address and a wrong password cost the same work, and are refused in the same words.
        """
        key = find_address_key(email)
        async with self._reads.connect() as connection:
            person = (await connection.execute(queries.find_person(key or ""))).one_or_none()
        account = key or email[:400]
        attempt = await self._attempts.begin(account, client.address, person.id if person is not None else None)
        is_right = await self._passwords.verify(password, person.password_hash if person is not None else None)
        if not is_right or person is None or person.disabled_at is not None:
            await self._note_failure(person.id if person is not None else None, "password", client)
            raise Problem("invalid-credentials")
        if person.email_verified_at is None:
            await self._attempts.succeed(attempt)
            raise Problem("email-not-verified")
        async with self._reads.connect() as connection:
            organization_id, role = await choose_organization(connection, person.id, organization, "form:organization")
        granted = grant_scopes(scopes, role, person.platform_role)
        rehashed = await self._passwords.rehash(password, person.password_hash)
        async with self._engine.begin() as connection:
            await self._require_unchanged(connection, person)
            if rehashed is not None:
                await connection.execute(queries.replace_password_hash(person.id, person.password_hash, rehashed))
            factor = (await connection.execute(queries.find_second_factor(person.id))).one_or_none()
            if factor is not None and factor.confirmed_at is not None:
                # The attempt stays counted until the second factor was right, so that codes cannot be tried without end.
                return await self._challenge(connection, person.id, organization_id, granted)
            session_id, refresh_token = await self._sessions.begin(
                connection, person.id, organization_id, granted, "password", client
            )
        await self._attempts.succeed(attempt)
        return await self._sessions.issue(session_id, refresh_token)

    async def is_known_address(self, email: str, client: Client) -> bool:
        """Return whether the person with an email address was signed in from the address of the client in the last 30 days."""
        async with self._reads.connect() as connection:
            person = (await connection.execute(queries.find_person(find_address_key(email) or ""))).one_or_none()
        return await self._attempts.is_known(person.id if person is not None else None, client.address)

    async def with_code(self, challenge: str, code: str, client: Client) -> Tokens:
        """Answer a challenge, and return the tokens of a new session."""
        digest = token_digest("challenge", challenge)
        async with self._reads.connect() as connection:
            found = None
            if digest is not None:
                statement = queries.count_challenge_try(digest, MAX_CHALLENGE_TRIES)
                found = (await connection.execute(statement)).one_or_none()
            if found is None:
                raise Problem("invalid-credentials", "The challenge has expired or was used: sign in again.")
            person = (await connection.execute(queries.get_person(found.person_id))).one()
        attempt = await self._attempts.begin(person.email_key, client.address, person.id)
        assert digest is not None
        method = await self._use_code(person.id, code, client)
        if method is None:
            await self._note_failure(person.id, "code", client)
            raise Problem("invalid-credentials", "The code is wrong, or was used before: wait for the next one.")
        async with self._engine.begin() as connection:
            if (await connection.execute(queries.use_person_token(digest, "challenge"))).one_or_none() is None:
                raise Problem("invalid-credentials", "The challenge has expired or was used: sign in again.")
            locked = (await connection.execute(queries.lock_person(person.id))).one()
            if locked.disabled_at is not None or locked.security_version != found.data["version"]:
                raise Problem("invalid-credentials")
            session_id, refresh_token = await self._sessions.begin(
                connection, person.id, UUID(found.data["organization_id"]), found.data["scopes"], method, client
            )
        await self._attempts.succeed(attempt)
        await self._attempts.succeed(attempt)
        return await self._sessions.issue(session_id, refresh_token)

    async def confirm_password(self, person_id: UUID, password: str, client: Client) -> str:
        """Return the stored hash of a signed-in person's password. The attempt is counted.

        Raises the problem `invalid-credentials` for another password.
        """
        async with self._reads.connect() as connection:
            person = (await connection.execute(queries.get_person(person_id))).one()
        attempt = await self._attempts.begin(person.email_key, client.address, person_id)
        if not await self._passwords.verify(password, person.password_hash):
            await self._note_failure(person_id, "password", client)
            raise Problem("invalid-credentials", "The password is wrong.")
        await self._attempts.succeed(attempt)
        stored: str = person.password_hash
        return stored

    async def start_second_factor(self, person_id: UUID) -> SecondFactor:
        """Store a new secret, which is not asked for until it is confirmed. Raises `conflict` when there is a second factor."""
        secret = new_secret()
        async with self._engine.begin() as connection:
            person = (await connection.execute(queries.lock_person(person_id))).one()
            stored = self._cipher.encrypt(secret, _purpose(person_id))
            if (await connection.execute(queries.put_second_factor(person_id, stored))).one_or_none() is None:
                raise Problem("conflict", "There is a second factor already: disable it first.")
        return SecondFactor(secret=secret, uri=provisioning_uri(secret, person.email, ISSUER))

    async def confirm_second_factor(self, person_id: UUID, code: str, client: Client) -> RecoveryCodes:
        """Turn the second factor on, if a code shows that the app has the secret, and return new recovery codes."""
        codes = new_recovery_codes()
        async with self._engine.begin() as connection:
            person = (await connection.execute(queries.lock_person(person_id))).one()
            factor = (await connection.execute(queries.find_second_factor(person.id))).one_or_none()
            if factor is None or factor.confirmed_at is not None:
                raise Problem("conflict", "There is no second factor to confirm: begin with `POST /auth/totp`.")
            if not await self._use_step(connection, factor, code):
                raise invalid("/code", "wrong_code", "The code is wrong: check the clock of the device with the app.")
            await connection.execute(queries.delete_recovery_codes(person_id))
            await connection.execute(
                queries.insert_recovery_codes(person_id, [recovery_code_digest(person_id, one) for one in codes])
            )
            await self._sessions.note(connection, AuditAction.SECOND_FACTOR_ENABLED, person_id, person_id, client)
        return RecoveryCodes(recovery_codes=codes)

    async def disable_second_factor(self, person_id: UUID, client: Client) -> None:
        """Turn the second factor off. Raises `conflict` when there is none."""
        async with self._engine.begin() as connection:
            if (await connection.execute(queries.delete_second_factor(person_id))).rowcount == 0:
                raise Problem("conflict", "There is no second factor.")
            await connection.execute(queries.delete_recovery_codes(person_id))
            await self._sessions.note(connection, AuditAction.SECOND_FACTOR_DISABLED, person_id, person_id, client)

    async def _use_code(self, person_id: UUID, code: str, client: Client) -> str | None:
        """Use a code of the app or a recovery code, and return which it was, or None if it is wrong or was used."""
        async with self._engine.begin() as connection:
            factor = (await connection.execute(queries.find_second_factor(person_id))).one_or_none()
            if factor is None:
                return None
            if await self._use_step(connection, factor, code):
                return "totp"
            digest = recovery_code_digest(person_id, normalize_recovery_code(code))
            if (await connection.execute(queries.use_recovery_code(person_id, digest))).one_or_none() is None:
                return None
            await self._sessions.note(connection, AuditAction.RECOVERY_CODE_USED, person_id, person_id, client)
            return "recovery_code"

    async def _use_step(self, connection: AsyncConnection, factor: Any, code: str) -> bool:
        secret = self._cipher.decrypt(factor.secret, _purpose(factor.person_id))
        step = find_step(secret, code, time.time())
        if step is None:
            return False
        return (await connection.execute(queries.use_step(factor.person_id, step))).one_or_none() is not None

    async def _challenge(
        self, connection: AsyncConnection, person_id: UUID, organization_id: UUID, granted: Collection[str] | None
    ) -> Challenge:
        token = new_token("challenge")
        digest = token_digest("challenge", token)
        assert digest is not None
        locked = (await connection.execute(queries.lock_person(person_id))).one()
        data = {
            "organization_id": str(organization_id),
            "scopes": sorted(granted) if granted is not None else None,
            "version": locked.security_version,
        }
        await connection.execute(queries.insert_person_token(digest, "challenge", person_id, CHALLENGE_SECONDS, data))
        return Challenge(challenge=token, expires_in=CHALLENGE_SECONDS, methods=["totp", "recovery_code"])

    async def _require_unchanged(self, connection: AsyncConnection, person: Any) -> None:
        """Raise `invalid-credentials` if the person was changed while the password was verified, and lock the row."""
        locked = (await connection.execute(queries.lock_person(person.id))).one_or_none()
        if locked is None or (locked.password_hash, locked.security_version, locked.disabled_at) != (
            person.password_hash,
            person.security_version,
            None,
        ):
            raise Problem("invalid-credentials")

    async def _note_failure(self, person_id: UUID | None, what: str, client: Client) -> None:
        async with self._engine.begin() as connection:
            await self._sessions.note(
                connection, AuditAction.SIGN_IN_FAILED, person_id, None, client, after={"wrong": what}
            )


async def choose_organization(
    connection: AsyncConnection, person_id: UUID, wanted: str | None, pointer: str
) -> tuple[UUID, str]:
    """Return the organization for which the tokens will be, and the role there: the wanted one, or the oldest membership."""
    for row in (await connection.execute(queries.list_memberships([person_id]))).all():
        if wanted is None or wanted in {str(row.organization_id), row.organization_name}:
            return row.organization_id, row.role
    if wanted is None:
        raise Problem("forbidden", "You are a member of no enabled organization: ask an admin to invite you to one.")
    raise invalid(pointer, "not_a_member", "You are not a member of this organization: `GET /users/me` lists yours.")


def grant_scopes(scopes: Sequence[str], role: str, platform_role: str | None) -> frozenset[str] | None:
    """Return the requested scopes that the roles allow, or None if none was requested, which means all that they allow."""
    if not scopes:
        return None
    granted = frozenset(scopes).intersection(allowed_scopes(role, platform_role))
    if not granted:
        raise Problem(
            "forbidden",
            "Your role allows none of the requested scopes. It allows: "
            f"{', '.join(allowed_scopes(role, platform_role))}.",
        )
    return granted


def _purpose(person_id: UUID) -> str:
    return f"second factor of {person_id}"
