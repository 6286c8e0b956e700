"""Finds the caller of a request by its API key or its access token.

Keys are found by their prefix, and compared by digest in constant time. Access tokens are verified, and their session is looked
up. Both are cached for a second: that is how long a key or token is accepted, at most, after it was revoked.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Executable
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.caller import Caller
from api.auth.sessions import session_scopes
from api.auth.signing import TokenSigner
from api.http.problems import Problem
from shared.api_keys import key_digest, key_prefix
from shared.networks import find_network, is_within
from shared.people.access_tokens import LEEWAY_SECONDS, AccessToken, InvalidToken, is_access_token
from shared.permissions import lower_platform_role, lower_role
from shared.queries import callers as queries
from shared.queries import sessions as session_queries

KEY_CACHE_SECONDS: Final = 1.0
"""How long a key is accepted after it was revoked, at most."""
SESSION_PREFIX: Final = "session:"
MAX_CACHED_KEYS: Final = 10_000
LAST_USE_STORE_SECONDS: Final = 60.0
"""How old the stored last use of a key must be for another use to be stored."""
log = structlog.get_logger()


def read_token(authorization: str | None, api_key: str | None) -> str | None:
    """Return the token of a request's credentials, or None if it has none.

    A bearer token takes precedence over `X-API-Key`. `Authorization` with another scheme, which may be meant for a proxy,
    is ignored if there is an `X-API-Key`, and otherwise counts as no credentials.
    """
    if authorization is not None:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return credentials.strip() or None
    return api_key or None


class Authenticator:
    """Finds the callers of requests, and caches them."""

    def __init__(self, engine: AsyncEngine, signer: TokenSigner) -> None:
        self._engine = engine
        self._signer = signer
        self._cached: dict[str, tuple[float, Caller]] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def caller(self, authorization: str | None, api_key: str | None, address: str | None = None) -> Caller:
        """Return the caller. `address` is the client's, as the trusted proxies report it.

        Raises the problem `unauthorized` without credentials and for refused ones, and `forbidden` for a key that is not
        accepted from this address.
        """
        token = read_token(authorization, api_key)
        if token is None:
            if authorization is not None and not authorization.lower().startswith("bearer"):
                raise Problem("unauthorized", "The header Authorization must be `Bearer <key>`.")
            raise Problem("unauthorized")
        known = self._cached.get(token)
        if known is not None and known[0] > time.monotonic():
            caller = known[1]
        else:
            caller = await self._look_up(token, address)
        if caller.networks is not None and not is_within(address, caller.networks):
            raise Problem(
                "forbidden",
                "This key is restricted to networks, and the address of this request is in none of them. Use a key that is "
                "accepted from here, or have the networks changed by rotating or replacing the key.",
            )
        return caller

    async def caller_of_key(self, prefix: str) -> Caller:
        """Return the caller with a `key_prefix`, for a token that this server signed on behalf of that key or session.

        Raises the problem `unauthorized` when the key was revoked or has expired, or the session has ended. The networks of the key
        are not compared: the token was asked for from within them, for a browser elsewhere.
        """
        if prefix.startswith(SESSION_PREFIX):
            return await self._look_up_session(UUID(prefix.removeprefix(SESSION_PREFIX)), None)
        return await self._look_up_prefix(prefix, None, None)

    async def _look_up(self, token: str, address: str | None) -> Caller:
        self._cached.pop(token, None)
        # From before the key is read, so that a slow answer of the database does not prolong the life of a revoked key.
        started = time.monotonic()
        seconds = KEY_CACHE_SECONDS
        prefix = key_prefix(token)
        if prefix is not None and "\x00" not in prefix:
            caller = await self._look_up_prefix(prefix, key_digest(token), address)
        elif is_access_token(token):
            try:
                access = await self._signer.verify(token)
            except InvalidToken:
                raise _refused("The access token is invalid or has expired.") from None
            caller = await self._look_up_session(access.session_id, access)
            seconds = min(seconds, (access.expires_at - datetime.now(UTC)).total_seconds() + LEEWAY_SECONDS)
        else:
            raise _refused()
        if len(self._cached) >= MAX_CACHED_KEYS:
            self._cached.clear()
        self._cached[token] = (started + seconds, caller)
        return caller

    async def _look_up_prefix(self, prefix: str, digest: bytes | None, address: str | None) -> Caller:
        """Return the caller of a valid key. Its digest is compared, if one is given."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(queries.find_api_key(prefix, LAST_USE_STORE_SECONDS))).one_or_none()
        if row is None or (digest is not None and not hmac.compare_digest(row.sha256, digest)):
            raise _refused()
        networks = None if row.networks is None else tuple(row.networks)
        # A stream token is used from an address that says nothing about the key.
        is_use = digest is not None and (networks is None or is_within(address, networks))
        if row.is_last_use_due and is_use:
            self._store_in_background(queries.store_last_use(row.id, find_network(address), LAST_USE_STORE_SECONDS))
        role, platform_role = row.role, row.platform_role
        if row.person_id is not None:
            # A person's key never reaches further than the person does now.
            role = lower_role(role, row.member_role)
            platform_role = lower_platform_role(platform_role, row.person_platform_role)
        return Caller(
            key_id=row.id,
            key_prefix=prefix,
            key_name=row.name,
            owner_id=row.caller_id,
            owner_name=row.caller_name,
            person_id=row.person_id,
            organization_id=row.organization_id,
            role=role,
            platform_role=platform_role,
            scopes=frozenset(row.scopes),
            networks=networks,
            expires_at=row.expires_at,
        )

    async def _look_up_session(self, session_id: UUID, access: AccessToken | None) -> Caller:
        """Return the caller of a session that stands, for an access token if one is given."""
        statement = session_queries.find_session_caller(session_id, access.key_id if access is not None else None)
        async with self._engine.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise _refused("The session has ended: sign in again.")
        if access is not None and (row.person_id, row.organization_id, row.version) != (
            access.person_id,
            access.organization_id,
            access.version,
        ):
            raise _refused("Your rights have changed since the token was issued: refresh it.")
        if row.is_use_due:
            self._store_in_background(session_queries.store_session_use(session_id, None))
        return Caller(
            key_id=None,
            key_prefix=f"{SESSION_PREFIX}{session_id}",
            key_name="session",
            owner_id=row.caller_id,
            owner_name=row.caller_name,
            person_id=row.person_id,
            session_id=session_id,
            organization_id=row.organization_id,
            role=row.role,
            platform_role=row.platform_role,
            scopes=access.scopes if access is not None else session_scopes(row),
        )

    def _store_in_background(self, statement: Executable) -> None:
        """Store a last use in the background, so that the request does not wait for it."""
        storing = asyncio.create_task(self._store(statement))
        self._background.add(storing)
        storing.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Wait until the last uses of keys and sessions are stored."""
        await asyncio.gather(*self._background)

    async def _store(self, statement: Executable) -> None:
        try:
            async with self._engine.connect() as connection:
                await connection.execute(statement)
        except (SQLAlchemyError, OSError) as error:
            log.warning("last_use_not_stored", error=type(error).__name__)


def _refused(detail: str = "The key is unknown, revoked or expired.") -> Problem:
    return Problem("unauthorized", detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
