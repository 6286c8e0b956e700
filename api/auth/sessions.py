"""Begins sessions, exchanges their refresh tokens, and ends them.

A refresh token can be used once: its use makes the next one. A second use of one ends the session, since either use may be that of
a thief. Two uses at the same time, of which neither client could know of the other, are told apart from that: one of them gets the
new tokens, the other is refused, and the session goes on.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auditing.entries import write_entry
from api.auth.auth_models import Tokens
from api.auth.clients import Client
from api.auth.signing import TokenSigner
from api.http.problems import Problem
from shared.audit.actions import AuditAction
from shared.audit.entries import Actor, Entry
from shared.identifiers import new_id
from shared.people.access_tokens import ACCESS_TOKEN_SECONDS
from shared.people.one_use_tokens import new_token, token_digest
from shared.permissions import allowed_scopes
from shared.queries import organizations as organization_queries
from shared.queries import sessions as queries
from shared.settings import Settings

BAD_TOKEN: Final = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class Sessions:
    """The sessions of people."""

    def __init__(self, settings: Settings, engine: AsyncEngine, signer: TokenSigner) -> None:
        self._days = settings.session_days
        self._provider_lifetime = min(timedelta(hours=settings.oidc_session_hours), timedelta(days=self._days))
        self._engine = engine
        self._signer = signer

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a transaction for `end_all`."""
        return self._engine.begin()

    async def begin(
        self,
        connection: AsyncConnection,
        person_id: UUID,
        organization_id: UUID,
        scopes: Collection[str] | None,
        method: str,
        client: Client,
    ) -> tuple[UUID, str]:
        """Store a session in the transaction of the connection, and return its id and its first refresh token."""
        session_id = new_id()
        values = {
            "id": session_id,
            "person_id": person_id,
            "organization_id": organization_id,
            "scopes": sorted(scopes) if scopes is not None else None,
            "method": method,
            "address": client.address,
            "agent": client.agent,
        }
        lifetime = self._provider_lifetime if method == "oidc" else timedelta(days=self._days)
        await connection.execute(queries.insert_session(values, lifetime))
        refresh_token = await self._store_refresh_token(connection, session_id)
        await self.note(
            connection, AuditAction.SIGNED_IN, session_id, person_id, client, organization_id, after={"method": method}
        )
        return session_id, refresh_token

    async def issue(self, session_id: UUID, refresh_token: str) -> Tokens:
        """Return the tokens of a stored session. Raises `unauthorized` when it has ended in the meantime."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(queries.find_session_caller(session_id, None))).one_or_none()
        if row is None:
            raise session_ended()
        return await self._sign(row, refresh_token)

    async def refresh(self, token: str, age_seconds: float, client: Client) -> Tokens:
        """Exchange a refresh token, of a request that arrived `age_seconds` ago, for new tokens. Raises `unauthorized`."""
        digest = token_digest("refresh", token)
        if digest is None:
            raise session_ended()
        refusal: Problem | None = None
        async with self._engine.begin() as connection:
            found = (await connection.execute(queries.lock_refresh_token(digest, age_seconds))).one_or_none()
            if found is None or not found.is_live:
                raise session_ended()
            if found.used_at is not None and found.is_overtaken:
                raise Problem("token-superseded", headers=BAD_TOKEN)
            if found.used_at is not None:
                await connection.execute(queries.end_session(found.session_id, None, "refresh_token_reused"))
                await self.note(
                    connection,
                    AuditAction.REFRESH_TOKEN_REUSED,
                    found.session_id,
                    found.person_id,
                    client,
                    found.organization_id,
                )
                refusal = session_ended("This refresh token was used before, so the session was ended: sign in again.")
            else:
                row = (await connection.execute(queries.find_session_caller(found.session_id, None))).one_or_none()
                if row is None:
                    raise session_ended()
                await connection.execute(queries.mark_refresh_token_used(digest))
                await connection.execute(
                    queries.extend_session(found.session_id, self._days, client.address, client.agent)
                )
                new = await self._store_refresh_token(connection, found.session_id)
        if refusal is not None:
            raise refusal
        return await self._sign(row, new)

    async def find_by_refresh_token(self, connection: AsyncConnection, token: str) -> Any:
        """Return the session of a refresh token, used or not, with `session_id` and `person_id`; or None."""
        digest = token_digest("refresh", token)
        if digest is None:
            return None
        return (await connection.execute(queries.lock_refresh_token(digest, 0))).one_or_none()

    async def end(self, session_id: UUID, person_id: UUID, reason: str, action: AuditAction, client: Client) -> bool:
        """End a session of a person. Return whether there was such a session that had not ended."""
        async with self._engine.begin() as connection:
            row = (await connection.execute(queries.end_session(session_id, person_id, reason))).one_or_none()
            if row is not None:
                await self.note(connection, action, session_id, person_id, client, row.organization_id)
        return row is not None

    async def end_all(
        self, connection: AsyncConnection, person_id: UUID, reason: str, client: Client, but: UUID | None = None
    ) -> int:
        """End every session of a person, except one if it is given, in the transaction of the connection."""
        rows = (await connection.execute(queries.end_sessions(person_id, reason, but))).all()
        for row in rows:
            await self.note(
                connection, AuditAction.SESSION_REVOKED, row.id, person_id, client, None, {"reason": reason}
            )
        if but is None:
            await connection.execute(organization_queries.raise_security_version(person_id))
        return len(rows)

    async def note(
        self,
        connection: AsyncConnection,
        action: AuditAction,
        resource_id: UUID | None,
        person_id: UUID | None,
        client: Client,
        organization_id: UUID | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        """Write an entry of the audit log, in the transaction of the connection. Without a person, nobody is signed in."""
        actor = Actor(
            "person" if person_id is not None else "anonymous",
            person_id=person_id,
            address=client.address,
            request_id=client.request_id,
        )
        await write_entry(connection, Entry(actor, action, resource_id, organization_id, after=after))

    async def _store_refresh_token(self, connection: AsyncConnection, session_id: UUID) -> str:
        token = new_token("refresh")
        digest = token_digest("refresh", token)
        assert digest is not None
        await connection.execute(queries.insert_refresh_token(digest, session_id))
        return token

    async def _sign(self, row: Any, refresh_token: str) -> Tokens:
        scopes = session_scopes(row)
        access_token = await self._signer.sign(row.person_id, row.id, row.organization_id, scopes, row.version)
        return Tokens(
            access_token=access_token,
            token_type="bearer",  # noqa: S106 - it is a name.
            expires_in=ACCESS_TOKEN_SECONDS,
            scope=" ".join(sorted(scopes)),
            refresh_token=refresh_token,
        )


def session_scopes(row: Any) -> frozenset[str]:
    """Return the scopes of a session: those that were asked for, as far as the roles allow them now."""
    allowed = frozenset(allowed_scopes(row.role, row.platform_role))
    return allowed if row.scopes is None else allowed.intersection(row.scopes)


def session_ended(detail: str = "The token is unknown, or its session has ended: sign in again.") -> Problem:
    """Return the problem of a token that is not accepted."""
    return Problem("unauthorized", detail, headers=BAD_TOKEN)
