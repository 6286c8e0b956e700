"""A receiver of webhooks: a real HTTP server on loopback that answers as a test says, or hangs, or answers nonsense."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.conftest import wait_until_true

LONGEST_HANG_SECONDS = 60.0
IDLE_SECONDS = 60.0
"""How long a connection may be silent before it is closed."""


@dataclass(frozen=True)
class ReceivedRequest:
    """One request: its target, its headers by name in lower case, and its body."""

    target: str
    headers: dict[str, str]
    body: bytes


Respond = Callable[[ReceivedRequest, socket.socket, threading.Event], None]
"""Answers a request on its connection. The event is set when the receiver closes."""


@dataclass
class Receiver:
    """A running receiver. `respond` may be replaced while no request is on its way."""

    port: int
    respond: Respond
    scheme: str = "http"
    requests: list[ReceivedRequest] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    @property
    def url(self) -> str:
        """Its URL."""
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    def wait_for_requests(self, count: int) -> list[ReceivedRequest]:
        """Wait for so many requests, and return all that came."""
        wait_until_true(lambda: len(self.requests) >= count)
        return list(self.requests)


def answer_with(status: int, body: bytes = b"", headers: str = "") -> Respond:
    """Return what answers with a status, a body and header lines."""

    def respond(request: ReceivedRequest, connection: socket.socket, closing: threading.Event) -> None:
        head = f"HTTP/1.1 {status} Text\r\ncontent-length: {len(body)}\r\n{headers}connection: close\r\n\r\n"
        connection.sendall(head.encode() + body)

    return respond


def answer_in_turn(first: Respond, others: Respond) -> Respond:
    """Return what answers the first request in one way, and all others in another."""
    answers = itertools.chain([first], itertools.repeat(others))

    def respond(request: ReceivedRequest, connection: socket.socket, closing: threading.Event) -> None:
        next(answers)(request, connection, closing)

    return respond


def hang_after(beginning: bytes) -> Respond:
    """Return what sends the beginning of an answer and then nothing."""

    def respond(request: ReceivedRequest, connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(beginning)
        closing.wait(LONGEST_HANG_SECONDS)

    return respond


def repeat(beginning: bytes, piece: bytes, pause_seconds: float = 0) -> Respond:
    """Return what sends the beginning of an answer and then a piece again and again."""

    def respond(request: ReceivedRequest, connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(beginning)
        while not closing.wait(pause_seconds):
            connection.sendall(piece)

    return respond


@contextmanager
def run_receiver(respond: Respond | None = None, *, certificate: str | None = None) -> Iterator[Receiver]:
    """Run a receiver, which answers 200 unless a test says otherwise; with a certificate it speaks TLS."""
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        receiver = Receiver(listener.getsockname()[1], respond or answer_with(200, b"thank you"))
        if certificate is not None:
            receiver.scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate is not None else None
        if context is not None and certificate is not None:
            context.load_cert_chain(certificate)
        lock = threading.Lock()
        threads: list[threading.Thread] = []
        connections: set[socket.socket] = set()

        def serve(connection: socket.socket) -> None:
            connection.settimeout(IDLE_SECONDS)
            with suppress(OSError), connection if context is None else context.wrap_socket(connection, True) as stream:
                with lock:
                    connections.add(stream)
                try:
                    request = _read_request(stream)
                    with lock:
                        receiver.requests.append(request)
                        receiver.in_flight += 1
                        receiver.most_in_flight = max(receiver.most_in_flight, receiver.in_flight)
                    try:
                        receiver.respond(request, stream, closing)
                    finally:
                        with lock:
                            receiver.in_flight -= 1
                finally:
                    with lock:
                        connections.discard(stream)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                thread = threading.Thread(target=serve, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield receiver
        finally:
            closing.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accepting.join(IDLE_SECONDS)
            with lock:
                for connection in connections:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(IDLE_SECONDS)


def _read_request(connection: socket.socket) -> ReceivedRequest:
    content = b""
    while b"\r\n\r\n" not in content:
        content += _receive(connection)
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += _receive(connection)
    return ReceivedRequest(first.split(" ")[1], headers, body)


def _receive(connection: socket.socket) -> bytes:
    """Return the next bytes. Raises `ConnectionError` at the end of the connection."""
    if piece := connection.recv(65536):
        return piece
    raise ConnectionError("the client closed the connection before its request was whole")
