"""HTTP/1.1 as bytes: offers to upgrade, trailers, limits and deadlines of what arrives, and connections that end."""

from __future__ import annotations

import itertools
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx2
import pytest

from api.http.protocol import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, HttpProtocol
from tests.api.conftest import Submit
from tests.conftest import PATIENCE_SECONDS, Api, wait_until_true

EMAIL = b'{"to":["ada@example.com"],"text":"hello"}'
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


class Connection:
    """A connection on which a test sends bytes and reads answers."""

    def __init__(self, api: Api) -> None:
        host, port = api.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        self.received = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_until(self, end: bytes) -> bytes:
        """Return the bytes that arrive up to and including `end`."""
        while end not in self.received:
            part = self.socket.recv(65536)
            assert part, f"closed after {self.received!r}"
            self.received += part
        found, _, self.received = self.received.partition(end)
        return found + end

    def read_answer(self) -> tuple[int, bytes, bytes]:
        """Return the status, the head and the body of one answer with a Content-Length."""
        head = self.read_until(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(self.received) < length:
            part = self.socket.recv(65536)
            assert part, "closed within the body"
            self.received += part
        body, self.received = self.received[:length], self.received[length:]
        return int(head.split()[1]), head, body

    def is_closed_within(self, seconds: float = PATIENCE_SECONDS) -> bool:
        self.socket.settimeout(seconds)
        try:
            while part := self.socket.recv(65536):
                self.received += part
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def connect(served: Api) -> Iterator[Callable[[], Connection]]:
    """Opens connections to the API."""
    opened: list[Connection] = []

    def open_one() -> Connection:
        opened.append(Connection(served))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.socket.close()


@pytest.fixture
def key(client: httpx2.Client) -> bytes:
    """The header with the client's key."""
    return b"Authorization: " + client.headers["authorization"].encode() + b"\r\n"


def post_email(key: bytes, framing: bytes, offer: bytes = OFFER) -> bytes:
    return b"POST /emails HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + key + offer + framing + b"\r\n"


def write_chunks(content: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"


# Offers to upgrade


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("packets", ["together", "body_apart", "byte_by_byte"])
def test_a_body_with_an_offer_to_upgrade_is_read_as_without_it(
    connect: Callable[[], Connection], key: bytes, framing: str, packets: str
) -> None:
    if framing == "length":
        head, content = post_email(key, b"Content-Length: %d\r\n" % len(EMAIL)), EMAIL
    else:
        head, content = post_email(key, b"Transfer-Encoding: chunked\r\n"), write_chunks(EMAIL)
    connection = connect()

    if packets == "together":
        connection.send(head + content + SMUGGLED)
    elif packets == "body_apart":
        connection.send(head[:-2] + b"Expect: 100-continue\r\n\r\n")
        connection.read_until(b"100 Continue\r\n\r\n")
        connection.send(content)
        connection.send(SMUGGLED)
    else:
        for byte in head + content + SMUGGLED:
            connection.send(bytes([byte]))

    status, _, answer = connection.read_answer()
    assert (status, json.loads(answer)["params"]["text"]) == (202, "hello")
    assert connection.read_answer()[2] == b'{"status":"ok"}', "the connection stays in step"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_with_an_offer_to_upgrade_never_becomes_a_request(
    connect: Callable[[], Connection], key: bytes, framing: str
) -> None:
    if framing == "length":
        head, content = post_email(key, b"Content-Length: %d\r\n" % len(SMUGGLED)), SMUGGLED
    else:
        head = post_email(key, b"Transfer-Encoding: chunked\r\n")
        content = b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n"
    connection = connect()

    connection.send(head[:-2] + b"Expect: 100-continue\r\n\r\n")
    connection.read_until(b"100 Continue\r\n\r\n")
    connection.send(content)
    status, _, answer = connection.read_answer()
    connection.send(SMUGGLED.replace(b"/health", b"/nope"))

    assert (status, json.loads(answer)["errors"][0]["code"]) == (422, "json_invalid")
    assert connection.read_answer()[0] == 404, "the next answer is that of the next request"


@pytest.mark.parametrize(
    "offer",
    [
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Connection: keep-alive, Upgrade\r\nUpgrade: TLS/1.0\r\n",
        b"Connection: Upgrade\r\nUpgrade: h2c, foo/2\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
        b"Upgrade: h2c\r\n",
        b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n",
    ],
)
def test_an_offer_of_any_protocol_is_ignored(connect: Callable[[], Connection], key: bytes, offer: bytes) -> None:
    connection = connect()
    connection.send(post_email(key, b"Content-Length: %d\r\n" % len(EMAIL), offer) + EMAIL)

    status, head, _ = connection.read_answer()

    assert (status, b"\r\nupgrade:" in head.lower()) == (202, False)
    assert (b"connection: close" in head.lower()) == (b"close" in offer)


def test_requests_with_an_offer_follow_each_other_on_one_connection(
    connect: Callable[[], Connection], key: bytes
) -> None:
    get = b"GET /health HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n"
    post = post_email(key, b"Content-Length: %d\r\n" % len(EMAIL)) + EMAIL
    connection = connect()

    connection.send(get + post + get + post)

    assert [connection.read_answer()[0] for _ in range(4)] == [200, 202, 200, 202]


def test_an_upload_with_an_offer_to_upgrade_is_stored(connect: Callable[[], Connection], key: bytes) -> None:
    content = b"some words\r\n" * 40_000
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + content + b"\r\n--b--\r\n"
    head = b"POST /files HTTP/1.1\r\nHost: x\r\n" + key + OFFER + b"Content-Type: multipart/form-data; boundary=b\r\n"
    connection = connect()

    connection.send(head + b"Content-Length: %d\r\n\r\n" % len(form) + form)
    status, _, answer = connection.read_answer()
    file_id = json.loads(answer)["params"]["file_id"]
    connection.send(b"GET /files/%b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (file_id.encode(), key))

    assert status == 202
    assert json.loads(connection.read_answer()[2])["size"] == len(content)


# Trailers


def test_trailers_are_not_headers(connect: Callable[[], Connection], key: bytes) -> None:
    head = b"POST /emails HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n0\r\n" % (len(EMAIL), EMAIL)
    connection = connect()

    connection.send(head + chunk + key + b"X-Request-ID: from-a-trailer\r\n\r\n" + SMUGGLED)

    status, answer_head, _ = connection.read_answer()
    assert (status, b"from-a-trailer" in answer_head) == (401, False)
    assert b"from-a-trailer" not in connection.read_answer()[1], "nor of the next request"


def test_trailers_change_nothing_of_a_request(connect: Callable[[], Connection], key: bytes) -> None:
    trailers = b"Idempotency-Key: a\r\nHost: y\r\nContent-Encoding: gzip\r\n\r\n"
    chunk = b"%x\r\n%b\r\n0\r\n" % (len(EMAIL), EMAIL)
    connection = connect()

    for _ in range(2):
        connection.send(post_email(key, b"Transfer-Encoding: chunked\r\n", b"") + chunk + trailers)
        status, head, _ = connection.read_answer()
        assert (status, b"idempotency-replayed" in head.lower()) == (202, False)


# Limits of the head

POST_CHUNKS = (
    b"POST /emails HTTP/1.1\r\nHost: x\r\nKEY\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def get_health(headers: bytes) -> bytes:
    return b"GET /health HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get_health(b"X: %b\r\n" % (b"x" * (MAX_HEADER_BYTES - 100))), 200),
        (get_health(b"X: %b\r\n" % (b"x" * MAX_HEADER_BYTES)), 431),
        (get_health(b"X: %b\r\n" % (b"x" * 20_000) * 4), 431),
        (get_health(b"X%b: 1\r\n" % (b"x" * MAX_HEADER_BYTES)), 431),
        (get_health(b"X: 1\r\n" * (MAX_HEADER_FIELDS - 1)), 200),
        (get_health(b"X: 1\r\n" * MAX_HEADER_FIELDS), 431),
        (b"GET /health?" + b"x" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 422),
        (b"GET /health?" + b"x" * 66_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_second", [False, True])
def test_a_head_has_limits(
    connect: Callable[[], Connection], request_bytes: bytes, status: int, is_second: bool
) -> None:
    connection = connect()
    if is_second:
        connection.send(SMUGGLED)
        connection.read_answer()

    connection.send(request_bytes)

    found, head, answer = connection.read_answer()
    assert found == status, answer
    if status in {414, 431}:
        assert json.loads(answer)["status"] == status
        assert b"connection: close" in head and b"application/problem+json" in head and b"x-request-id" in head
        assert connection.is_closed_within()


@pytest.mark.parametrize(
    ("start", "more", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: ", b"x" * 1000, 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX", b"x" * 1000, 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n", b"X: 1\r\n", 431),
        (b"GET /health?", b"x" * 1000, 414),
        (b"", b"\r\n" * 500, 431),
        (POST_CHUNKS + b"1;", b"x" * 1000, 400),
        (POST_CHUNKS + b"0\r\nX: ", b"x" * 1000, 400),
        (POST_CHUNKS + b"0\r\n", b"X: 1\r\n", 431),
    ],
)
def test_an_endless_head_is_refused_while_it_arrives(
    connect: Callable[[], Connection], key: bytes, start: bytes, more: bytes, status: int
) -> None:
    connection = connect()
    start = start.replace(b"KEY\r\n", key)
    connection.socket.setblocking(False)
    sent, limit = 0, 8 << 20
    rest = start
    while sent < limit:
        rest = rest or more
        with suppress(BlockingIOError):
            count = connection.socket.send(rest)
            rest, sent = rest[count:], sent + count
        with suppress(BlockingIOError):
            connection.received += connection.socket.recv(65536)
        if connection.received:
            break

    assert connection.received.startswith(b"HTTP/1.1 %d " % status)
    assert sent < limit


@contextmanager
def send_endless_headers(api: Api, connections: int) -> Iterator[None]:
    """Send one endless header field on each of some connections, and on a new one when it is closed.

    The block begins when each connection was closed once, or holds 32 MiB of its field.
    """
    is_over = threading.Event()
    has_begun = [threading.Event() for _ in range(connections)]

    def send(begun: threading.Event) -> None:
        while not is_over.is_set():
            with suppress(OSError), Connection(api).socket as connection:
                connection.settimeout(5)
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")
                for count in itertools.count():
                    if is_over.is_set():
                        break
                    connection.sendall(b"x" * 65536)
                    if count == 512:
                        begun.set()
            begun.set()

    threads = [threading.Thread(target=send, args=[begun]) for begun in has_begun]
    for thread in threads:
        thread.start()
    try:
        for begun in has_begun:
            assert begun.wait(PATIENCE_SECONDS)
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)


def test_endless_headers_do_not_slow_others_down(served: Api, nobody: httpx2.Client) -> None:
    with send_endless_headers(served, 4):
        seconds = []
        for _ in range(10):
            started = time.monotonic()
            assert nobody.get("/health").status_code == 200
            seconds.append(time.monotonic() - started)

    # Without the limit it is seconds. The senders share the processor and the interpreter with the server here.
    assert statistics.median(seconds) < 0.5


# Deadlines


@pytest.mark.parametrize("sent", [b"GET /health HTTP/1.1\r\nHost: x\r\n", b"GET /hea", b"GET /health HTTP/1.1\r\nX: "])
def test_a_head_that_does_not_end_is_answered_408(
    connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(HttpProtocol, "header_seconds", 0.2)
    connection = connect()

    connection.send(sent)

    status, head, answer = connection.read_answer()
    assert (status, json.loads(answer)["type"]) == (408, "/problems/request-timeout")
    assert b"connection: close" in head
    assert connection.is_closed_within()


def test_a_connection_that_sends_no_request_is_closed(
    connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "header_seconds", 0.2)
    silent, noisy = connect(), connect()

    noisy.send(b"\r\n")

    assert silent.is_closed_within() and noisy.is_closed_within()
    assert (silent.received, noisy.received) == (b"", b"")


def test_a_trickle_of_header_bytes_does_not_move_the_deadline(
    connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "header_seconds", 0.5)
    connection = connect()
    connection.socket.settimeout(0.05)
    connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")
    deadline = time.monotonic() + PATIENCE_SECONDS

    while not connection.received and time.monotonic() < deadline:
        connection.send(b"x")
        with suppress(TimeoutError):
            connection.received += connection.socket.recv(65536)

    assert connection.received.startswith(b"HTTP/1.1 408 ")


def test_the_deadline_of_a_head_does_not_cancel_a_pending_answer(
    connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch, key: bytes, email: Submit
) -> None:
    monkeypatch.setattr(HttpProtocol, "header_seconds", 0.2)
    connection = connect()

    connection.send(b"GET /tasks/%b?wait=1 HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (email().encode(), key))

    assert connection.read_answer()[0] == 200


@pytest.mark.parametrize("path", ["/tasks", "/tasks/batch", "/emails", "/tasks/{task_id}/cancel"])
def test_a_json_body_that_arrives_too_slowly_is_answered_408(
    connect: Callable[[], Connection],
    monkeypatch: pytest.MonkeyPatch,
    key: bytes,
    email: Submit,
    path: str,
) -> None:
    monkeypatch.setattr(HttpProtocol, "body_seconds", 0.3)
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    connection = connect()
    connection.socket.settimeout(0.05)
    connection.send(head % path.format(task_id=email()).encode() + key + b"\r\n")
    deadline = time.monotonic() + PATIENCE_SECONDS

    while not connection.received and time.monotonic() < deadline:
        connection.send(b" ")
        with suppress(TimeoutError):
            connection.received += connection.socket.recv(65536)

    connection.socket.settimeout(PATIENCE_SECONDS)
    status, answer_head, answer = connection.read_answer()
    assert (status, json.loads(answer)["type"]) == (408, "/problems/request-timeout")
    assert b"connection: close" in answer_head
    assert connection.is_closed_within()


def test_a_body_that_no_route_reads_must_arrive_at_a_sensible_rate(
    connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "body_seconds", 0.2)
    stalled, trickling = connect(), connect()
    request = b"POST /emails HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"

    stalled.send(request)
    trickling.send(request)

    assert stalled.read_answer()[0] == trickling.read_answer()[0] == 401
    assert stalled.is_closed_within()

    def is_refused() -> bool:
        try:
            trickling.send(b"x")
        except OSError:
            return True
        return False

    wait_until_true(is_refused)


def test_a_connection_is_used_again_after_a_body_that_no_route_read(connect: Callable[[], Connection]) -> None:
    connection = connect()
    connection.send(b"POST /emails HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    assert connection.read_answer()[0] == 401

    connection.send(b"x" * 100_000 + SMUGGLED)

    assert connection.read_answer()[0] == 200


# Transfer codings


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: x-other , CHUNKED\r\n",
    ],
)
def test_a_transfer_coding_beside_chunked_is_not_implemented(connect: Callable[[], Connection], fields: bytes) -> None:
    connection = connect()
    connection.send(b"POST /tasks HTTP/1.1\r\nHost: x\r\n%b\r\n2\r\n{}\r\n0\r\n\r\n" % fields)

    status, _, answer = connection.read_answer()

    assert (status, json.loads(answer)["type"]) == (501, "/problems/not-implemented")
    assert connection.is_closed_within()


@pytest.mark.parametrize("fields", [b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked, gzip\r\n"])
def test_a_body_whose_end_cannot_be_found_is_a_bad_request(connect: Callable[[], Connection], fields: bytes) -> None:
    connection = connect()
    connection.send(b"POST /tasks HTTP/1.1\r\nHost: x\r\n%b\r\n2\r\n{}\r\n0\r\n\r\n" % fields)

    assert connection.read_answer()[0] == 400
    assert connection.is_closed_within()


# Bytes that are not HTTP


def test_bytes_that_are_not_http_are_a_problem(connect: Callable[[], Connection]) -> None:
    connection = connect()
    connection.send(b"GET /tasks/\xff HTTP/1.1\r\nHost: x\r\n\r\n")

    status, head, answer = connection.read_answer()

    assert (status, json.loads(answer)["type"]) == (400, "/problems/bad-request")
    assert b"content-type: application/problem+json" in head
    assert b"x-request-id: " in head and b"x-content-type-options: nosniff" in head
    assert connection.is_closed_within()


def test_a_pending_answer_is_sent_before_bytes_that_are_not_http_close_it(
    connect: Callable[[], Connection], key: bytes, email: Submit
) -> None:
    connection = connect()

    connection.send(b"GET /tasks/%b?wait=1 HTTP/1.1\r\nHost: x\r\n%b\r\n\xff\xff" % (email().encode(), key))

    assert connection.read_answer()[0] == 200
    assert connection.is_closed_within()
    assert connection.received == b""


@pytest.mark.parametrize("target", ["example.com:443", "/health"])
def test_connect_is_refused(connect: Callable[[], Connection], target: str) -> None:
    connection = connect()
    connection.send(b"CONNECT %b HTTP/1.1\r\nHost: x\r\n\r\n" % target.encode())

    assert connection.read_answer()[0] in {400, 405}


def test_tcp_keepalive_is_enabled_to_detect_vanished_clients(
    served: Api, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[int] = []
    received = HttpProtocol.data_received

    def look(protocol: HttpProtocol, data: bytes) -> None:
        socket_ = protocol.transport.get_extra_info("socket")
        options.append(socket_.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        received(protocol, data)

    monkeypatch.setattr(HttpProtocol, "data_received", look)
    connection = connect()
    connection.send(SMUGGLED)
    connection.read_answer()

    assert options == [1]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such limit")
def test_the_connection_of_a_client_that_does_not_read_is_closed(
    served: Api, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "unread_seconds", 1.0)
    closed = threading.Event()
    connection_lost = HttpProtocol.connection_lost

    def note(protocol: HttpProtocol, error: Exception | None) -> None:
        connection_lost(protocol, error)
        closed.set()

    monkeypatch.setattr(HttpProtocol, "connection_lost", note)
    connection = connect()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    # More than the buffers of both kernels hold.
    connection.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)

    assert closed.wait(PATIENCE_SECONDS)
