"""A client that does not read its stream is disconnected, and nothing is kept for it."""

from __future__ import annotations

import socket
import struct
from datetime import UTC, datetime
from uuid import UUID

import httpx2
import pytest

from api.streaming import event_feed, streams
from api.streaming.event_feed import FeedEvent, Follower, Place, Step
from tests.api.conftest import ManualWorker, Submit
from tests.conftest import Api, Eventually

HANDSHAKE = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SEND_SECONDS", 0.5)


@pytest.mark.parametrize("path", ["/tasks/{}/events", "/tasks/{}/ws"])
def test_a_client_that_does_not_read_is_disconnected_at_once(
    served: Api,
    operator: httpx2.Client,
    manual_worker: ManualWorker,
    ping: Submit,
    eventually: Eventually,
    impatient: None,
    path: str,
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    # More than the buffers of both sockets and of the transport hold, which is some megabytes on loopback.
    manual_worker.connection.execute(
        "INSERT INTO task_events (task_id, seq, type, data) "
        "SELECT %s, n, 'log', jsonb_build_object('level', 'info', 'text', repeat('x', 20000), 'fields', '{}'::jsonb) "
        "FROM generate_series(3, 1000) AS n",
        [task_id],
    )
    host, port = served.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        lines = [
            f"GET {path.format(task_id)} HTTP/1.1",
            f"Host: {host}",
            f"Authorization: {operator.headers['authorization']}",
            *(HANDSHAKE if path.endswith("/ws") else []),
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())

        def was_reset() -> bool:
            # TCP_INFO begins with the state of the connection; 1 is ESTABLISHED.
            (state,) = struct.unpack_from("B", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8))
            return bool(state != 1)

        assert eventually(was_reset)


def test_the_feed_keeps_few_events_for_a_slow_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "MAX_PENDING_EVENTS", 3)
    moment = datetime.now(UTC)
    task_id = UUID(int=1)
    event = FeedEvent(Place(moment, task_id, 1), "status", moment, "{}", "k", "q", [], None, task_id, task_id, moment)
    follower = Follower(owner_id=task_id, joined_at="1:1:")

    for number in range(4):
        follower.add(Step(f"{number}:{number}:", f"{number + 1}:{number + 1}:", True, False, [event], {}))

    assert follower.pending == []
    assert follower.joined_at is None
