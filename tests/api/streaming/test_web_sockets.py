"""`WS /tasks/<id>/ws` and `WS /events/ws`: the messages of streams, subscriptions, bounds, and refused handshakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx2
import pytest
from starlette.requests import HTTPConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from api.auth import authentication
from api.dependencies import is_allowed
from api.routes import events
from api.streaming import streams, web_sockets
from shared.api_keys import revoke_key
from shared.permissions import Permission
from shared.settings import Settings
from tests.api.conftest import ManualWorker, SendRaw, Submit
from tests.conftest import PATIENCE_SECONDS, Api, Eventually
from tests.people import insert_person, make_member_key

Document = dict[str, Any]


@contextmanager
def open_socket(served: Api, path: str, client: httpx2.Client) -> Iterator[ClientConnection]:
    """Open a WebSocket with the credentials of a client."""
    headers = {"Authorization": client.headers["authorization"]}
    url = served.url.replace("http://", "ws://") + path
    with connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE_SECONDS) as socket:
        yield socket


def receive(socket: ClientConnection) -> Document:
    document: Document = json.loads(socket.recv(timeout=PATIENCE_SECONDS))
    return document


def receive_events(socket: ClientConnection, count: int) -> list[Document]:
    """Return the next so many messages that are events, without positions."""
    found: list[Document] = []
    while len(found) < count:
        message = receive(socket)
        assert message["type"] == "event", message
        if message["event"] != "position":
            found.append(message)
    return found


def send(socket: ClientConnection, **document: object) -> None:
    socket.send(json.dumps(document))


def receive_rest(socket: ClientConnection) -> tuple[list[Document], int | None]:
    """Return the messages until the server closes the socket, and the code with which it did."""
    messages = []
    try:
        while True:
            messages.append(receive(socket))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else None


def test_a_socket_carries_the_messages_of_the_stream_of_a_task(
    served: Api, operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    with open_socket(served, f"/tasks/{task_id}/ws", operator) as socket:
        first = receive(socket)
        socket.send("what a client sends is ignored")
        manual_worker.claim(task_id)
        manual_worker.report(task_id, 40, "2 of 5")
        manual_worker.end(task_id, "succeeded", result={"echo": None})
        rest, code = receive_rest(socket)
    with open_socket(served, f"/tasks/{task_id}/ws?last_event_id=2", operator) as socket:
        resumed, _ = receive_rest(socket)

    whole = [first, *rest]
    assert [(message["id"], message["event"]) for message in whole] == [
        (1, "status"),
        (2, "status"),
        (3, "progress"),
        (4, "status"),
    ]
    assert whole[2]["data"].items() >= {"percent": 40, "message": "2 of 5"}.items()
    assert code == 1000
    assert resumed == whole[2:]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/tasks/{UUID(int=7)}/ws", 404),
        ("/tasks/x/ws", 422),
        ("/events/ws?tag=x", 422),
        ("/nowhere", 404),
    ],
)
def test_a_refused_handshake_is_answered_with_a_problem(
    served: Api, operator: httpx2.Client, path: str, status: int
) -> None:
    with pytest.raises(InvalidStatus) as refusal, open_socket(served, path, operator):
        pass

    response = refusal.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-frame-options"] == "DENY"
    assert json.loads(response.body)["instance"] == f"urn:uuid:{response.headers['x-request-id']}"


def test_a_socket_without_credentials_is_refused(served: Api) -> None:
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(served.url.replace("http://", "ws://") + "/events/ws", proxy=None, open_timeout=PATIENCE_SECONDS),
    ):
        pass

    assert refusal.value.response.status_code == 401
    assert refusal.value.response.headers["www-authenticate"] == "Bearer"


def test_one_socket_carries_subscriptions_to_tasks_batches_and_filters(
    served: Api, client: httpx2.Client, manual_worker: ManualWorker, email: Submit
) -> None:
    message = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "hello"}}
    batch = client.post("/tasks/batch", json={"tasks": [message]}).json()
    task_id = email(client)
    with open_socket(served, "/events/ws", client) as socket:
        send(socket, type="subscribe", subscription="one", task_id=task_id)
        assert receive(socket) == {"type": "subscribed", "subscription": "one"}
        (first,) = receive_events(socket, 1)
        send(socket, type="subscribe", subscription="red", filter={"tag": "red"})
        assert receive(socket) == {"type": "subscribed", "subscription": "red"}
        assert receive(socket)["event"] == "position"
        send(socket, type="subscribe", subscription="batch", batch_id=batch["batch_id"])
        assert receive(socket) == {"type": "subscribed", "subscription": "batch"}
        (counts,) = receive_events(socket, 1)
        red = email(client, tags=["red"])
        email(client, tags=["blue"])
        (tagged,) = receive_events(socket, 1)
        send(socket, type="unsubscribe", subscription="red")
        assert receive(socket) == {"type": "unsubscribed", "subscription": "red"}
        manual_worker.succeed(batch["tasks"][0]["id"])
        messages = []
        while {"type": "end", "subscription": "batch"} not in messages:
            messages.append(receive(socket))

    assert (first["subscription"], first["id"], first["data"]["status"]) == ("one", 1, "queued")
    assert (counts["event"], counts["data"]["counts"]) == ("counts", {"queued": 1})
    assert (tagged["subscription"], tagged["data"]["task_id"]) == ("red", red)
    assert messages[-2]["data"]["counts"] == {"succeeded": 1}


@pytest.mark.parametrize(
    ("text", "problem", "pointer"),
    [
        ("{", "validation", ""),
        ("[]", "validation", ""),
        ('{"type": "subscribe"}', "validation", "/subscription"),
        ('{"type": "dance", "subscription": "a"}', "validation", ""),
        ('{"type": "subscribe", "subscription": "a"}', "validation", ""),
        ('{"type": "subscribe", "subscription": "a", "task_id": "7"}', "validation", "/task_id"),
        ('{"type": "subscribe", "subscription": "a", "filter": {"colour": "red"}}', "validation", "/filter/colour"),
        (
            '{"type": "subscribe", "subscription": "a", "filter": {"status": "asleep"}}',
            "validation",
            "/filter/status/0",
        ),
        (
            '{"type": "subscribe", "subscription": "a", "filter": {}, "last_event_id": "x"}',
            "validation",
            "/last_event_id",
        ),
        ('{"type": "unsubscribe", "subscription": "a"}', "validation", "/subscription"),
        (f'{{"type": "subscribe", "subscription": "a", "task_id": "{UUID(int=7)}"}}', "not-found", None),
        (" " * (20 << 10), "too-large", None),
        (b"{}", "validation", ""),
    ],
)
def test_a_bad_message_is_answered_with_an_error_and_the_socket_goes_on(
    served: Api, client: httpx2.Client, text: str | bytes, problem: str, pointer: str | None
) -> None:
    with open_socket(served, "/events/ws", client) as socket:
        socket.send(text)
        error = receive(socket)
        send(socket, type="subscribe", subscription="all", filter={})
        after = receive(socket)

    assert error["type"] == "error"
    assert error.get("subscription") == ("a" if isinstance(text, str) and '"subscription": "a"' in text else None)
    assert error["problem"]["type"] == f"/problems/{problem}"
    assert [one["pointer"] for one in error["problem"].get("errors", [])] == ([] if pointer is None else [pointer])
    assert after == {"type": "subscribed", "subscription": "all"}


def test_a_message_beyond_any_use_closes_the_socket(served: Api, client: httpx2.Client) -> None:
    with open_socket(served, "/events/ws", client) as socket:
        socket.send("x" * (100 << 10))

        assert receive_rest(socket) == ([], 1009)


def test_a_socket_has_no_more_subscriptions_than_allowed(
    served: Api, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_sockets, "MAX_SUBSCRIPTIONS", 1)
    with open_socket(served, "/events/ws", client) as socket:
        for name in ("a", "b"):
            send(socket, type="subscribe", subscription=name, filter={})
        messages = [receive(socket) for _ in range(3)]

    (error,) = (message for message in messages if message["type"] == "error")
    assert (error["subscription"], error["problem"]["errors"][0]["code"]) == ("b", "too_many")


def test_a_socket_of_a_revoked_key_is_closed(
    served: Api, module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_sockets, "CHECK_KEY_SECONDS", 0.2)
    key = served.key("leaver")
    with open_socket(served, "/events/ws", served.client_with(key.key)) as socket:
        revoke_key(module_settings, str(key.id))

        assert receive_rest(socket) == ([], 1008)
    assert streams.CHECK_KEY_SECONDS == 15.0


def test_a_socket_is_closed_when_the_role_of_its_caller_changes(
    served: Api,
    client: httpx2.Client,
    module_settings: Settings,
    manual_worker: ManualWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_sockets, "CHECK_KEY_SECONDS", 0.2)
    person_id = insert_person(module_settings, "demoted@example.com")
    organization_id = UUID(client.get("/usage").json()["organization_id"])
    key = make_member_key(module_settings, person_id, organization_id, "client")
    with open_socket(served, "/events/ws", served.client_with(key)) as socket:
        send(socket, type="subscribe", subscription="all", filter={})
        assert receive(socket)["type"] == "subscribed"
        # A viewer may read streams too, but not what a client is shown in them.
        manual_worker.connection.execute("UPDATE memberships SET role = 'viewer' WHERE person_id = %s", (person_id,))

        assert receive_rest(socket)[1] == 1008


def test_a_socket_of_a_revoked_key_is_closed_after_errors_of_the_database(
    served: Api,
    module_settings: Settings,
    manual_worker: ManualWorker,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_sockets, "CHECK_KEY_SECONDS", 0.1)
    monkeypatch.setattr(authentication, "KEY_CACHE_SECONDS", 0.0)
    checks: list[bool] = []

    async def note_check(connection: HTTPConnection, *permissions: Permission) -> bool:
        checks.append(await is_allowed(connection, *permissions))
        return checks[-1]

    monkeypatch.setattr(events, "is_allowed", note_check)
    key = served.key("leaver-during-an-outage")
    with open_socket(served, "/events/ws", served.client_with(key.key)) as socket:
        # Every statement that reads a key now fails.
        manual_worker.connection.execute("ALTER TABLE api_keys RENAME TO api_keys_away")
        try:
            checked = len(checks)
            eventually(lambda: len(checks) > checked + 2)
            assert all(checks)
        finally:
            manual_worker.connection.execute("ALTER TABLE api_keys_away RENAME TO api_keys")
        revoke_key(module_settings, str(key.id))

        assert receive_rest(socket) == ([], 1008)


def test_a_socket_whose_key_cannot_be_checked_is_closed(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_sockets, "CHECK_KEY_SECONDS", 0.1)

    async def fail(*_: object) -> bool:
        raise RuntimeError("an error that nobody expects")

    monkeypatch.setattr(events, "is_allowed", fail)
    with open_socket(served, "/events/ws", served.client("unchecked")) as socket:
        assert receive_rest(socket) == ([], 1011)


@pytest.mark.parametrize(
    "lines",
    [
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\nContent-Length: 2\r\n",
    ],
)
def test_what_is_not_the_handshake_of_a_socket_is_answered_as_a_request(send_raw: SendRaw, lines: bytes) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n" + (b"{}" if b"Length" in lines else b"")
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    assert send_raw(request + last).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    "lines",
    [
        b"Sec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n",
        b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 7\r\n",
    ],
)
def test_a_faulty_handshake_is_refused_and_closes_the_connection(send_raw: SendRaw, lines: bytes) -> None:
    request = b"GET /events/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + lines + b"\r\n"

    assert send_raw(request).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 "))
