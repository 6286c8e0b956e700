"""Finds the caller of a request by its API key.

Keys are found by their prefix, compared by digest in constant time, and cached for a second.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.http.problems import Problem
from shared.api_keys import key_digest, key_prefix
from shared.queries import callers as queries

KEY_CACHE_SECONDS: Final = 1.0
"""How long a key is accepted after it was revoked, at most."""
MAX_CACHED_KEYS: Final = 10_000
LAST_USE_STORE_SECONDS: Final = 60.0
"""How old the stored last use of a key must be for another use to be stored."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request, and what the caller may do."""

    key_id: UUID
    key_prefix: str
    key_name: str
    owner_id: UUID
    owner_name: str
    organization_id: UUID
    role: str
    scopes: frozenset[str]
    rate_key: str
    """The key by which the rate limits count requests: the role and the caller's id."""

    @property
    def privileged(self) -> bool:
        """Whether the caller sees and cancels what belongs to other organizations."""
        return self.role != "client"

    @property
    def visible_organization_id(self) -> UUID | None:
        """The organization whose tasks and files the caller sees, or None for all organizations."""
        return None if self.privileged else self.organization_id

    def sees(self, organization_id: UUID) -> bool:
        """Return whether the caller sees what belongs to an organization."""
        return organization_id == self.organization_id or self.privileged

    def require_operator(self, detail: str) -> None:
        """Raise the problem `forbidden`, with this detail, unless the caller is an operator or an admin."""
        if not self.privileged:
            raise Problem("forbidden", detail)

    def require_may_change(self, organization_id: UUID) -> None:
        """Raise the problem `forbidden` unless the caller may change or delete what belongs to an organization.

        Operators see what belongs to other organizations, but only admins may change or delete it.
        """
        if organization_id != self.organization_id and self.role != "admin":
            raise Problem("forbidden", "Only an admin may change or delete what belongs to another organization.")

    def require(self, *scopes: str) -> None:
        """Raise the problem `forbidden` unless the key has every one of the scopes (RFC 6750, section 3.1)."""
        if not self.scopes.issuperset(scopes):
            needed = " ".join(scopes)
            raise Problem(
                "forbidden",
                f"The key lacks a scope. This route needs: {needed}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
            )


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

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._cached: dict[str, tuple[float, Caller]] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def caller(self, authorization: str | None, api_key: str | None) -> Caller:
        """Return the caller. Raises the problem `unauthorized` without credentials, and for refused ones."""
        token = read_token(authorization, api_key)
        if token is None:
            if authorization is not None and not authorization.lower().startswith("bearer"):
                raise Problem("unauthorized", "The header Authorization must be `Bearer <key>`.")
            raise Problem("unauthorized")
        known = self._cached.get(token)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        return await self._look_up(token)

    async def caller_of_key(self, prefix: str) -> Caller:
        """Return the caller whose key has a prefix, for a token that this server signed on behalf of that key.

        Raises the problem `unauthorized` when the key was revoked or has expired.
        """
        return await self._look_up_prefix(prefix, None)

    async def _look_up(self, token: str) -> Caller:
        self._cached.pop(token, None)
        prefix = key_prefix(token)
        if prefix is None or "\x00" in prefix:
            raise _refused()
        caller = await self._look_up_prefix(prefix, key_digest(token))
        if len(self._cached) >= MAX_CACHED_KEYS:
            self._cached.clear()
        self._cached[token] = (time.monotonic() + KEY_CACHE_SECONDS, caller)
        return caller

    async def _look_up_prefix(self, prefix: str, digest: bytes | None) -> Caller:
        """Return the caller of a valid key. Its digest is compared, if one is given."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(queries.find_api_key(prefix, LAST_USE_STORE_SECONDS))).one_or_none()
        if row is None or (digest is not None and not hmac.compare_digest(row.sha256, digest)):
            raise _refused()
        if row.is_last_use_due:
            # Stored in the background, so that the request does not wait for it.
            storing = asyncio.create_task(self._store_last_use(row.id))
            self._background.add(storing)
            storing.add_done_callback(self._background.discard)
        return Caller(
            key_id=row.id,
            key_prefix=prefix,
            key_name=row.name,
            owner_id=row.caller_id,
            owner_name=row.caller_name,
            organization_id=row.organization_id,
            role=row.role,
            scopes=frozenset(row.scopes),
            rate_key=f"{'client' if row.role == 'client' else 'privileged'}:{row.caller_id}",
        )

    async def close(self) -> None:
        """Wait until the last uses of keys are stored."""
        await asyncio.gather(*self._background)

    async def _store_last_use(self, key_id: UUID) -> None:
        try:
            async with self._engine.connect() as connection:
                await connection.execute(queries.store_last_use(key_id, LAST_USE_STORE_SECONDS))
        except (SQLAlchemyError, OSError) as error:
            log.warning("last_use_not_stored", key_id=str(key_id), error=type(error).__name__)


def _refused() -> Problem:
    return Problem(
        "unauthorized",
        "The key is unknown, revoked or expired.",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )
