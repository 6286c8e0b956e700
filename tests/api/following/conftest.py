"""Fixtures of the tests that follow tasks: wake-ups, and the number of requests that wait."""

from __future__ import annotations

import gc
from collections.abc import Callable
from uuid import UUID

import pytest
import redis

from api.following.waiters import Waiter
from cli.local_stack.broker import BrokerServer
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, encode_task_ids

PublishWakeup = Callable[[str], None]
"""The fixture `publish_wakeup`."""


@pytest.fixture
def publish_wakeup(broker_server: BrokerServer) -> PublishWakeup:
    """Publishes a wake-up for the task with the given id, as workers do."""

    def publish(task_id: str) -> None:
        with redis.Redis.from_url(broker_server.url) as broker:
            broker.publish(WAKEUP_CHANNEL, encode_task_ids([UUID(task_id)]))

    return publish


def count_waiters() -> int:
    """Return how many requests wait in the API, which is served by this process."""
    gc.collect()
    return sum(isinstance(thing, Waiter) for thing in gc.get_objects())
