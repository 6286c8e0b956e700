"""Reads the limits that hold for a caller, and keeps them for a moment, so that a change is in force within a second."""

from __future__ import annotations

import asyncio
import time
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.http.rate_limits import RateLimits
from shared.limits import NO_LIMITS, HeldLimits, Limits, Scope
from shared.queries import limits as queries
from shared.settings import Settings
from shared.tables.limits import DEFAULT_SUBJECT

CACHE_SECONDS: Final = 0.8
"""For how long limits that were read count."""
MAX_CACHED: Final = 10_000
log = structlog.get_logger()


class LimitReader:
    """Reads limits from the database."""

    def __init__(self, settings: Settings, engine: AsyncEngine, reads: AsyncEngine, rate_limits: RateLimits) -> None:
        self._defaults: dict[Scope, Limits] = {
            "organization": settings.organization_limits,
            "caller": settings.caller_limits,
        }
        self._engine = engine
        self._reads = reads
        self._rate_limits = rate_limits
        self._known: dict[UUID, tuple[float, HeldLimits]] = {}
        self._storing_defaults = asyncio.Lock()
        self._has_stored_defaults = False

    def find(self, caller_id: UUID) -> HeldLimits | None:
        """Return the limits of a caller if they were read a moment ago."""
        known = self._known.get(caller_id)
        return known[1] if known is not None and known[0] > time.monotonic() else None

    async def read(self, organization_id: UUID, caller_id: UUID) -> HeldLimits:
        """Return the limits that hold for a caller."""
        if (known := self.find(caller_id)) is not None:
            return known
        if not self._has_stored_defaults:
            await self._store_defaults()
        async with self._reads.connect() as connection:
            parameters = {"organization_id": organization_id, "caller_id": caller_id}
            rows = (await connection.exec_driver_sql(queries.LIST_EFFECTIVE_LIMITS, parameters)).all()
        held = HeldLimits.of_rows(rows)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[caller_id] = (time.monotonic() + CACHE_SECONDS, held)
        # Callers with a platform role have another key, and the limits of the settings.
        self._rate_limits.replace_own(f"client:{caller_id}", held.requests_per_minute())
        return held

    async def read_known(self, organization_id: UUID, caller_id: UUID) -> HeldLimits:
        """Return the limits that hold for a caller, or those read last while the database does not answer."""
        try:
            return await self.read(organization_id, caller_id)
        except (SQLAlchemyError, OSError, TimeoutError):
            known = self._known.get(caller_id)
            return known[1] if known is not None else NO_LIMITS

    async def _store_defaults(self) -> None:
        """Store the limits of the settings as the default rows, which statements of the database read."""
        async with self._storing_defaults:
            if self._has_stored_defaults:
                return
            async with self._engine.begin() as connection:
                for scope, limits in self._defaults.items():
                    if (await list_own_limits(connection, DEFAULT_SUBJECT, scope)).given() != limits.given():
                        await replace_limits(connection, DEFAULT_SUBJECT, scope, limits)
                        log.info("default_limits_stored", scope=scope)
            self._has_stored_defaults = True


async def list_own_limits(connection: AsyncConnection, subject_id: UUID, scope: Scope) -> Limits:
    """Return the limits that an organization or a caller has itself."""
    parameters = {"subject_id": subject_id, "scope": scope}
    return Limits.of_rows((await connection.exec_driver_sql(queries.LIST_LIMITS, parameters)).all())


async def replace_limits(connection: AsyncConnection, subject_id: UUID, scope: Scope, limits: Limits) -> None:
    """Replace the limits that an organization or a caller has itself, in the transaction of the connection."""
    for statement, parameters in queries.replace_limits(subject_id, scope, limits):
        await connection.exec_driver_sql(statement, parameters)
