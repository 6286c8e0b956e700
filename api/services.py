"""What one API process holds open: connections, the storage, the limits, those who wait."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.authentication import Authenticator
from api.following.waiters import TaskReader, Waiters
from api.http.rate_limits import RateLimits
from api.submitting.queue_bounds import QueueBounds
from api.submitting.submission_batcher import SubmissionBatcher
from shared.database.connections import BoundedConnection, bound, hot_connection_arguments, make_async_engine
from shared.settings import Settings
from shared.storage.object_store import ObjectStore
from shared.storage.open_store import open_object_store

HotPool = AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]


class Services:
    """Made before the first request, closed after the last. Needs neither the database nor the broker to be there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits = RateLimits(settings)
        self.store: ObjectStore = open_object_store(settings.storage_url)
        self.engine: AsyncEngine = make_async_engine(settings, "api")
        self.reads: AsyncEngine = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.authenticator = Authenticator(self.reads)
        self.queue_bounds = QueueBounds(settings, self.reads)
        self.batcher = SubmissionBatcher(settings)
        self.reader = TaskReader(settings)
        self.waiters = Waiters(settings, self.reader)
        self.hot_pool: HotPool = AsyncConnectionPool(
            settings.database_url,
            connection_class=BoundedConnection,
            configure=partial(bound, timeout_seconds=settings.database_timeout_seconds),
            kwargs=hot_connection_arguments("api-submit", timeout_seconds=settings.database_timeout_seconds),
            min_size=0,
            max_size=settings.database_pool_size,
            timeout=settings.database_timeout_seconds,
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    async def open(self) -> None:
        """Begin to listen for wake-ups."""
        await self.hot_pool.open(wait=False)
        self.waiters.start()

    async def close(self) -> None:
        """Let those go who wait, commit what was taken, and close every connection."""
        await self.waiters.close()
        await self.batcher.close()
        await self.reader.close()
        await self.hot_pool.close(timeout=2)
        await self.engine.dispose()


def services_of(app: FastAPI) -> Services:
    """Give the services of an application."""
    services: Services = app.state.services
    return services
