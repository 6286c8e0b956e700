"""Who is calling: API keys, found by their prefix, compared by digest in constant time, remembered for a second."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from api.http.problems import Problem
from shared.api_keys import key_digest, key_prefix
from shared.queries import callers as queries

REMEMBERED_SECONDS: Final = 1.0
"""How long a revoked key may still be believed."""
MAX_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what they may do."""

    key_id: UUID
    owner_id: UUID
    organization_id: UUID
    role: str
    scopes: frozenset[str]
    rate_key: str
    """What their requests are counted by: the role, and the caller."""

    @property
    def privileged(self) -> bool:
        """Whether they see and steer what belongs to others."""
        return self.role != "client"

    @property
    def visible_organization_id(self) -> UUID | None:
        """The organization whose tasks and files the caller may see; None for operators and admins, who see all."""
        return None if self.privileged else self.organization_id

    def sees(self, organization_id: UUID) -> bool:
        """Whether what belongs to an organization exists for them."""
        return organization_id == self.organization_id or self.privileged

    def require_may_delete(self, organization_id: UUID) -> None:
        """Raise a problem unless what belongs to an organization is theirs to delete: an operator's right ends there."""
        if organization_id != self.organization_id and self.role != "admin":
            raise Problem("forbidden", "What belongs to others is deleted by an admin.")

    def require(self, *scopes: str) -> None:
        """Raise a problem unless they have every scope (RFC 6750, section 3.1)."""
        if not self.scopes.issuperset(scopes):
            needed = " ".join(scopes)
            raise Problem(
                "forbidden",
                f"The key lacks a scope: this needs {needed}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
            )


class Authenticator:
    """Finds the caller behind a request's credentials."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._remembered: dict[str, tuple[float, Caller]] = {}

    async def caller(self, authorization: str | None, api_key: str | None) -> Caller:
        """Give the caller. Raises the problem `unauthorized` without credentials, or with wrong ones.

        A bearer token decides before `X-API-Key`; another scheme, which may be a proxy's, leaves it to that header.
        """
        token = api_key
        if authorization is not None:
            scheme, _, credentials = authorization.partition(" ")
            if scheme.lower() == "bearer":
                token = credentials.strip()
            elif not api_key:
                raise Problem("unauthorized", "Authorization must be `Bearer <key>`.")
        if not token:
            raise Problem("unauthorized")
        known = self._remembered.get(token)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        return await self._look_up(token)

    async def _look_up(self, token: str) -> Caller:
        self._remembered.pop(token, None)
        prefix = key_prefix(token)
        if prefix is None or "\x00" in prefix:
            raise _refused()
        async with self._engine.connect() as connection:
            row = (await connection.execute(queries.find_api_key(prefix))).one_or_none()
        if row is None or not hmac.compare_digest(row.sha256, key_digest(token)):
            raise _refused()
        caller = Caller(
            row.id,
            row.caller_id,
            row.organization_id,
            row.role,
            frozenset(row.scopes),
            f"{'client' if row.role == 'client' else 'privileged'}:{row.caller_id}",
        )
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[token] = (time.monotonic() + REMEMBERED_SECONDS, caller)
        return caller


def _refused() -> Problem:
    return Problem(
        "unauthorized",
        "The key is unknown, revoked or expired.",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )
