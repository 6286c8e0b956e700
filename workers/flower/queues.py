"""Pages of Flower with the backlog of the queues, which is read from Postgres.

Flower itself counts the messages in the broker. The relay keeps only a window of each queue there, and one message may
announce several tasks, so that number says nothing about the backlog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypedDict

import psycopg
from flower.api.tasks import GetQueueLengths
from flower.views.broker import BrokerView
from tornado.web import HTTPError

from shared.contracts.kind import QUEUES
from shared.database.connections import connect_hot
from shared.outage_log import OutageLog
from shared.queries.backlog import COUNT_QUEUED_BY_QUEUE
from shared.settings import Settings


class QueueRow(TypedDict):
    """A queue, under the names that Flower's page and API use."""

    name: str
    messages: int
    messages_ready: int


class Backlog:
    """Reads the backlog, in place of Flower's client of the broker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outage = OutageLog("database")

    async def queues(self, _names: Iterable[str]) -> list[QueueRow]:
        """Return every queue with the number of its queued tasks. Raises `HTTPError` when the database is away."""
        try:
            tasks = await asyncio.get_running_loop().run_in_executor(None, self._count)
        except psycopg.Error as error:
            self._outage.warn(error)
            raise HTTPError(503, "The database does not answer, and only it knows the backlog.") from None
        self._outage.end()
        return [QueueRow(name=name, messages=tasks.get(name, 0), messages_ready=tasks.get(name, 0)) for name in QUEUES]

    def _count(self) -> dict[str, int]:
        with connect_hot(self._settings, "flower", timeout_seconds=5) as connection:
            return {str(queue): int(tasks) for queue, tasks in connection.execute(COUNT_QUEUED_BY_QUEUE)}


class BacklogPage(BrokerView):  # type: ignore[misc]  # Flower has no types
    """Flower's page about the broker, with the backlog."""

    def initialize(self, backlog: Backlog) -> None:
        """Store the reader of the backlog."""
        self._backlog = backlog

    def get_broker(self) -> Any:
        """Return what is asked for the queues."""
        return self._backlog


class BacklogLengths(GetQueueLengths):  # type: ignore[misc]  # Flower has no types
    """Flower's answer to `/api/queues/length`, with the backlog."""

    def initialize(self, backlog: Backlog) -> None:
        """Store the reader of the backlog."""
        self._backlog = backlog

    def get_broker(self) -> Any:
        """Return what is asked for the queues."""
        return self._backlog
