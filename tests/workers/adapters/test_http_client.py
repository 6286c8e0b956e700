from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.receiver import LONGEST_HANG_SECONDS, Respond, answer_with, hang_after, repeat, run_receiver
from workers.adapters.address_guard import AddressGuard, Target
from workers.adapters.http_client import HttpAnswer, HttpClient, RequestFailed, TimeLimits
from workers.outcomes import Cancelled

LOOPBACK = [ip_network("127.0.0.0/8")]
CERTIFICATE = Path(__file__).with_name("localhost.pem")
PATIENT = TimeLimits(resolve=60, connect=60, tls=60, headers=60, body=60)
"""Longer than a busy machine needs for an answer. A test of one phase shortens the limit of that phase."""
SHORT_SECONDS = 0.4
BEGINNING = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"


def post(
    url: str, *, limits: TimeLimits = PATIENT, guard: AddressGuard | None = None, content: bytes = b"{}"
) -> HttpAnswer:
    client = HttpClient(guard or AddressGuard(LOOPBACK), limits, ssl.create_default_context(cafile=str(CERTIFICATE)))
    return client.post(url, content, {"content-type": "application/json"}, max_body_bytes=1024)


def test_an_answer_has_its_status_headers_and_body() -> None:
    with run_receiver(answer_with(429, b"slow down", "Retry-After: 7\r\n")) as receiver:
        answer = post(receiver.url, content=b'{"a": 1}')

    assert (answer.status, answer.body, answer.body_is_whole) == (429, b"slow down", True)
    assert answer.headers["retry-after"] == "7"
    request = receiver.requests[0]
    assert (request.target, request.body) == ("/hook", b'{"a": 1}')
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-type"] == "application/json"


def test_only_the_beginning_of_a_body_without_end_is_read() -> None:
    with run_receiver(repeat(BEGINNING + b"\r\n", b"x" * 65536)) as receiver:
        answer = post(receiver.url)

    assert (answer.status, answer.body, answer.body_is_whole) == (200, b"x" * 1024, False)


@pytest.mark.parametrize(
    ("respond", "detail"),
    [
        (hang_after(b""), "the answer did not arrive in time"),
        (hang_after(BEGINNING), "the answer did not arrive in time"),
        (repeat(BEGINNING, b"x: y\r\n", 0.05), "the answer did not arrive in time"),
        (repeat(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05), "the answer did not arrive in time"),
    ],
    ids=["no byte", "half of the headers", "headers without end", "informational answers without end"],
)
def test_headers_that_do_not_end_in_time_fail_the_request(respond: Respond, detail: str) -> None:
    with run_receiver(respond) as receiver, pytest.raises(RequestFailed, match=detail) as raised:
        began = time.monotonic()
        post(receiver.url, limits=replace(PATIENT, headers=SHORT_SECONDS))

    assert raised.value.reason == "timed_out"
    assert time.monotonic() - began < LONGEST_HANG_SECONDS / 2


@pytest.mark.parametrize("respond", [hang_after(BEGINNING + b"\r\nabc"), repeat(BEGINNING + b"\r\n", b"x", 0.05)])
def test_a_body_that_does_not_end_in_time_is_cut(respond: Respond) -> None:
    with run_receiver(respond) as receiver:
        answer = post(receiver.url, limits=replace(PATIENT, body=SHORT_SECONDS))

    assert answer.status == 200
    assert answer.body
    assert not answer.body_is_whole


def test_a_receiver_that_never_accepts_fails_the_request() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        # The queue of connections is full with these, so that the next one gets no answer to its first packet.
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
        with pytest.raises(RequestFailed) as raised:
            post(url, limits=replace(PATIENT, connect=SHORT_SECONDS))
        for connection in waiting:
            connection.close()

    assert raised.value.reason == "timed_out"


def test_a_receiver_that_hangs_in_the_handshake_fails_the_request() -> None:
    with run_receiver(hang_after(b"")) as receiver, pytest.raises(RequestFailed, match="TLS in time") as raised:
        post(receiver.url.replace("http:", "https:"), limits=replace(PATIENT, tls=SHORT_SECONDS))

    assert raised.value.reason == "timed_out"


def test_a_request_by_tls_names_the_host_and_checks_the_certificate() -> None:
    with run_receiver(certificate=str(CERTIFICATE)) as receiver:
        by_name = post(
            receiver.url.replace("127.0.0.1", "localhost"), guard=AddressGuard([*LOOPBACK, ip_network("::1/128")])
        )
        elsewhere = AddressGuard(LOOPBACK, lambda host, port: [Target(socket.AF_INET, ("127.0.0.1", port))])
        with pytest.raises(RequestFailed) as raised:
            post(receiver.url.replace("127.0.0.1", "other.example"), guard=elsewhere)

    assert by_name.status == 200
    assert receiver.requests[0].headers["host"] == f"localhost:{receiver.port}"
    assert raised.value.reason == "tls_failed"


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with run_receiver() as inner:
        with run_receiver(answer_with(307, headers=f"location: {inner.url}\r\n")) as receiver:
            answer = post(receiver.url)
        assert inner.requests == []

    assert answer.status == 307


def test_a_name_is_resolved_once_and_the_judged_address_is_connected_to() -> None:
    look_ups: list[str] = []

    def rebind(host: str, port: int) -> Sequence[Target]:
        look_ups.append(host)
        # Allowed at the first look-up, and another address of this machine at every later one.
        address = "127.0.0.1" if len(look_ups) == 1 else "127.0.0.9"
        return [Target(socket.AF_INET, (address, port))]

    guard = AddressGuard([ip_network("127.0.0.1/32")], rebind)
    with run_receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", "rebinding.example")
        assert post(url, guard=guard).status == 200
        assert receiver.requests[0].headers["host"] == f"rebinding.example:{receiver.port}"
        with pytest.raises(RequestFailed, match=r"127\.0\.0\.9") as raised:
            post(url, guard=guard)

    assert look_ups == ["rebinding.example"] * 2
    assert raised.value.reason == "address_refused"
    assert len(receiver.requests) == 1


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_receiver() as proxy, run_receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(receiver.url).status == 200
        assert proxy.requests == []


@pytest.mark.parametrize(
    "answer", [b"", b"hello\r\n\r\n", b"HTTP/9 \r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 500_000]
)
def test_what_is_not_http_fails_the_request(answer: bytes) -> None:
    def respond(request: object, connection: socket.socket, closing: object) -> None:
        connection.sendall(answer)

    with run_receiver(respond) as receiver, pytest.raises(RequestFailed) as raised:
        post(receiver.url)

    assert raised.value.reason in {"not_http", "connection_lost"}


def test_nobody_who_listens_fails_the_request() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with pytest.raises(RequestFailed) as raised:
            post(f"http://127.0.0.1:{listener.getsockname()[1]}/")

    assert raised.value.reason == "connect_failed"


def test_a_request_ends_soon_when_its_attempt_must_stop() -> None:
    def stop() -> None:
        if time.monotonic() > began + 0.2:
            raise Cancelled

    client = HttpClient(AddressGuard(LOOPBACK))
    with run_receiver(hang_after(b"")) as receiver, pytest.raises(Cancelled):
        began = time.monotonic()
        client.post(receiver.url, b"", {}, max_body_bytes=1, check=stop)

    assert time.monotonic() - began < LONGEST_HANG_SECONDS / 2
