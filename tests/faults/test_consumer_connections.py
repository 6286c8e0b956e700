"""Broken and silently dead connections to the broker: tasks still run, if necessary in a restarted worker."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from urllib.parse import urlsplit

import httpx2
import pytest
import redis

from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS
from tests.faults.conftest import Room
from tests.forked_parts import Part

LEASE_SECONDS = 1.0
"""The watch needs two of them to be sure."""


class BrokerProxy:
    """A proxy between a worker and the broker. Only its thread uses the connections."""

    def __init__(self, broker_url: str) -> None:
        parts = urlsplit(broker_url)
        assert parts.hostname is not None and parts.port is not None
        self._broker = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._other_end: dict[socket.socket, socket.socket] = {}
        self._dead: list[socket.socket] = []
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = threading.Event()
        port = self._listening.getsockname()[1]
        self.url = broker_url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop_forwarding(self) -> None:
        """Stop forwarding on the present connections, without closing them."""
        self._orders.put(self._stop_forwarding)

    def reset_connections(self) -> None:
        """Reset the present connections at both ends."""
        self._orders.put(self._reset)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_SECONDS)
        for end in [self._listening, *self._other_end, *self._dead]:
            end.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            while not self._orders.empty():
                self._orders.get()()
            for readable in select.select([self._listening, *self._other_end], [], [], 0.02)[0]:
                if readable is self._listening:
                    self._connect()
                elif readable in self._other_end:
                    self._carry(readable)

    def _connect(self) -> None:
        near, _ = self._listening.accept()
        far = socket.create_connection(self._broker, timeout=10)
        self._other_end |= {near: far, far: near}

    def _carry(self, end: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = end.recv(65_536)
            self._other_end[end].sendall(data)
        if not data:
            other = self._other_end.pop(end)
            del self._other_end[other]
            end.close()
            other.close()

    def _stop_forwarding(self) -> None:
        self._dead += self._other_end
        self._other_end.clear()

    def _reset(self) -> None:
        for end in self._other_end:
            # With nothing to linger for, a close is a reset.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
        self._other_end.clear()


@pytest.fixture
def proxy(settings: Settings) -> Iterator[BrokerProxy]:
    proxy = BrokerProxy(settings.broker_url)
    yield proxy
    proxy.close()


class WatchedWorker:
    """A worker behind a proxy that is started again whenever it has ended, as a supervisor does."""

    def __init__(self, room: Room, proxy: BrokerProxy) -> None:
        self._room = room
        self._proxy = proxy
        self._process = self._start()
        self.ends: list[int] = []

    def _start(self) -> Part:
        return self._room.worker(queues="files", TASKMILL_BROKER_URL=self._proxy.url)

    def look(self) -> None:
        if self._process.poll() is not None:
            self.ends.append(self._process.returncode)
            self._process = self._start()


def is_done(room: Room, worker: WatchedWorker, task_ids: list[str]) -> bool:
    worker.look()
    return {room.statuses().get(task_id) for task_id in task_ids} == {"succeeded"}


@pytest.mark.parametrize("how", ["reset", "killed by the server"])
def test_a_consumer_goes_on_after_repeatedly_broken_connections(
    room: Room, client: httpx2.Client, proxy: BrokerProxy, how: str
) -> None:
    room.relay()
    worker = WatchedWorker(room, proxy)
    first = room.submit_many(client, 5)
    room.eventually(lambda: is_done(room, worker, first))

    with redis.Redis.from_url(room.settings.broker_url) as broker:
        for turn in range(12):
            room.submit(client)
            if how == "reset":
                proxy.reset_connections()
            else:
                for kind in ("normal", "pubsub"):
                    broker.client_kill_filter(_type=kind, skipme=True)
            # The pauses grow, so that the next break comes before the consumer is connected again, and after.
            time.sleep(0.05 * turn)
    last = room.submit_many(client, 5)

    room.eventually(lambda: is_done(room, worker, [*room.accepted[:-5], *last]))
    assert set(room.settle().values()) == {"succeeded"}
    assert set(worker.ends) <= {1}


def test_a_consumer_goes_on_after_connections_died_without_a_notice(
    room: Room, client: httpx2.Client, proxy: BrokerProxy
) -> None:
    room.relay()
    worker = WatchedWorker(room, proxy)
    first = room.submit_many(client, 5)
    room.eventually(lambda: is_done(room, worker, first))

    proxy.stop_forwarding()
    second = room.submit_many(client, 5)

    # Its socket's timeout of ten seconds, or the watch, whichever is sooner.
    room.eventually(lambda: is_done(room, worker, second))
    assert set(room.settle().values()) == {"succeeded"}
    assert set(worker.ends) <= {1}
