"""Sends one HTTP request to a URL that a caller chose: to public addresses only, in bounded time, with a bounded answer.

- The address is judged by `address_guard`, and the connection goes to the address that was judged. The name stays in `Host`
  and in TLS.
- Each phase has its limit in total, however slowly bytes arrive: resolve, connect, TLS, headers, body.
- Redirects are not followed, and proxies of the environment are not used. Cookies and credentials are not sent.

    RequestFailed         there is no answer; `reason` says in which phase it failed
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import httpcore2
import truststore

from workers.adapters.address_guard import AddressGuard, AddressRefused, NameNotResolved, Target
from workers.handler_context import STOP_CHECK_SECONDS

WRITE_BYTES: Final = 64 << 10

Reason = Literal[
    "address_refused", "name_not_resolved", "connect_failed", "tls_failed", "timed_out", "connection_lost", "not_http"
]


class RequestFailed(Exception):
    """There is no answer: no connection, or none in time, or what came was not HTTP."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class TimeLimits:
    """The longest time of each phase, in seconds."""

    resolve: float = 5.0
    connect: float = 5.0
    tls: float = 5.0
    headers: float = 15.0
    body: float = 5.0


class HttpAnswer(NamedTuple):
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case; of several fields of one name, the last."""
    body: bytes
    """The beginning of the body, at most as long as was asked for."""
    body_is_whole: bool
    """Whether the body ended within the limits of its size and time."""


class HttpClient:
    """Sends requests, each over a connection of its own."""

    def __init__(
        self,
        guard: AddressGuard,
        limits: TimeLimits = TimeLimits(),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._limits = limits
        self._ssl_context = ssl_context or _trust_system()

    def post(
        self,
        url: str,
        content: bytes,
        headers: Mapping[str, str],
        *,
        max_body_bytes: int,
        check: Callable[[], None] = lambda: None,
    ) -> HttpAnswer:
        """Send a POST, and return the answer with up to `max_body_bytes` of its body.

        `check` is called several times a second, and may raise to end the request. Raises `RequestFailed`.
        """
        clock = _Clock(check)
        backend = _GuardedBackend(self._guard, self._limits, clock)
        fields = {"accept-encoding": "identity", "connection": "close", "content-length": str(len(content)), **headers}
        try:
            with (
                httpcore2.ConnectionPool(self._ssl_context, network_backend=backend, max_connections=1) as pool,
                pool.stream(
                    "POST", url, headers=[(k.encode(), v.encode()) for k, v in fields.items()], content=content
                ) as found,
            ):
                clock.begin("the body", self._limits.body)
                body, is_whole = _read_body(found.iter_stream(), max_body_bytes)
                names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in found.headers}
                return HttpAnswer(found.status, names, body, is_whole)
        except (httpcore2.RemoteProtocolError, httpcore2.LocalProtocolError, httpcore2.UnsupportedProtocol) as error:
            raise RequestFailed(
                "not_http", "The receiver closed the connection, or sent something other than HTTP."
            ) from error
        except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
            raise RequestFailed("connection_lost", "The connection broke before the answer had arrived.") from error


@cache
def _trust_system() -> ssl.SSLContext:
    """Return a context that trusts the certificates of the system.

    On Linux they are read once, when the first connection needs them: `truststore` reads them for each, which takes 30 ms.
    """
    paths = ssl.get_default_verify_paths()
    if sys.platform == "linux" and (paths.cafile or paths.capath):
        return ssl.create_default_context()
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _read_body(chunks: Iterator[bytes], max_bytes: int) -> tuple[bytes, bool]:
    """Return the beginning of a body, and whether it is the whole. What ends a body too early is no error."""
    body = b""
    try:
        for chunk in chunks:
            body += chunk
            if len(body) > max_bytes:
                return body[:max_bytes], False
    except (RequestFailed, httpcore2.ProtocolError, httpcore2.NetworkError):
        return body, False
    return body, True


class _Clock:
    """How long the current phase of a request may still last."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._phase = ""
        self._end = 0.0

    def begin(self, phase: str, seconds: float) -> None:
        """Begin a phase that may last so many seconds."""
        self._phase, self._end = phase, time.monotonic() + seconds

    def next_wait(self) -> float:
        """Return how long to wait until the next check, in seconds. Raises `RequestFailed` when the phase has lasted too long."""
        self._check()
        left = self._end - time.monotonic()
        if left <= 0:
            raise RequestFailed("timed_out", f"The receiver took too long: {self._phase} did not arrive in time.")
        return min(left, STOP_CHECK_SECONDS)

    def left(self) -> float:
        """Return how long the phase may still last, in seconds."""
        self._check()
        return max(0.001, self._end - time.monotonic())


class _GuardedBackend(httpcore2.NetworkBackend):
    """Connects to the addresses that the guard returns."""

    def __init__(self, guard: AddressGuard, limits: TimeLimits, clock: _Clock) -> None:
        self._guard = guard
        self._limits = limits
        self._clock = clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        self._clock.begin("the address", self._limits.resolve)
        try:
            targets = self._guard.find_addresses(host, port, self._clock.left())
        except AddressRefused as error:
            raise RequestFailed("address_refused", f"The host of the URL may not be connected to: {error}.") from None
        except NameNotResolved as error:
            raise RequestFailed("name_not_resolved", f"The host of the URL could not be resolved: {error}.") from None
        self._clock.begin("the connection", self._limits.connect)
        connection = self._connect(targets)
        self._clock.begin("the answer", self._limits.headers)
        return _TimedStream(connection, self._limits, self._clock)

    def _connect(self, targets: Iterable[Target]) -> socket.socket:
        """Connect to the first address that accepts the connection."""
        failure: OSError | None = None
        for target in targets:
            connection = socket.socket(target.family, socket.SOCK_STREAM)
            try:
                connection.settimeout(self._clock.left())
                connection.connect(target.sockaddr)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            except TimeoutError:
                connection.close()
                raise RequestFailed("timed_out", "The receiver did not accept the connection in time.") from None
            except OSError as error:
                connection.close()
                failure = error
        why = failure.strerror if failure is not None else None
        raise RequestFailed("connect_failed", f"The receiver could not be connected to: {why or 'no address'}.")


class _TimedStream(httpcore2.NetworkStream):
    """A connection whose reads and writes end with the phase of the request."""

    def __init__(self, connection: socket.socket, limits: TimeLimits, clock: _Clock) -> None:
        self._connection = connection
        self._limits = limits
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            self._connection.settimeout(self._clock.next_wait())
            try:
                with _lost_connection():
                    return self._connection.recv(max_bytes)
            except TimeoutError:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = memoryview(buffer)
        while left:
            self._connection.settimeout(self._clock.next_wait())
            try:
                with _lost_connection():
                    left = left[self._connection.send(left[:WRITE_BYTES]) :]
            except TimeoutError:
                continue

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        self._clock.begin("the handshake of TLS", self._limits.tls)
        try:
            self._connection.settimeout(self._clock.left())
            connection = ssl_context.wrap_socket(self._connection, server_hostname=server_hostname)
        except TimeoutError:
            self.close()
            raise RequestFailed("timed_out", "The receiver did not finish the handshake of TLS in time.") from None
        except (OSError, ValueError) as error:
            self.close()
            raise RequestFailed(
                "tls_failed", f"There is no TLS connection with the receiver: {_describe(error)}."
            ) from error
        self._clock.begin("the answer", self._limits.headers)
        return _TimedStream(connection, self._limits, self._clock)

    def get_extra_info(self, info: str) -> Any:
        return None


@contextmanager
def _lost_connection() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise httpcore2.ReadError(str(error)) from error


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or "its certificate is not valid"
    return getattr(error, "reason", None) or type(error).__name__
