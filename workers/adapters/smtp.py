"""The client of the mail server: the protocols `MailServer` and `MailSession`, and their implementation on smtplib.

Each step of the SMTP dialogue (RFC 5321) is a call of its own, because a message must never be sent twice, and so the
caller must know at which step a session ended:

    connect, EHLO, STARTTLS, AUTH     `MailServerUnavailable`: nothing of the message was sent
    MAIL FROM, RCPT TO, DATA          a `Reply`, or `MailServerUnavailable`: nothing of the message was sent
    the message, up to its final dot  a `Reply`, or `AnswerMissing`: it is unknown whether the server has the message

The errors:

    MailServerUnavailable             another attempt is safe
    └── LoginRefused                  another attempt is safe, and is of use once the credentials are corrected
    AnswerMissing                     another attempt might deliver the message a second time

Every wait is bounded. Until the message itself is sent, every wait checks several times a second whether the attempt
must stop.
"""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from shared.errors import ConfigurationError
from workers.handler_context import STOP_CHECK_SECONDS

SOCKET_TIMEOUT_SECONDS = 10.0
"""The limit of one network operation: to connect, to shake hands for TLS, to send a command."""
REPLY_TIMEOUT_SECONDS = 60.0
"""The limit for a whole reply.

It is less than the minutes of RFC 5321 section 4.5.3.2, because a later attempt costs less than a waiting worker.
"""
QUIT_TIMEOUT_SECONDS = 2.0
MAX_REPLY_CHARACTERS = 400
"""How many characters of a reply's text are kept."""

_RECEIVE_BYTES = 8192
_MAX_REPLY_BYTES = 64 << 10
_EHLO_NOT_KNOWN = frozenset({500, 501, 502, 504})
"""The replies to EHLO after which a client says HELO instead (RFC 5321 section 3.2)."""
_NO_CODE = -1
"""What stands for the code where the server sent something other than an SMTP reply."""
_NOT_SMTP = "the server sent something that is not an SMTP reply"
_AUTHENTICATION_REQUIRED = 530
"""The reply to any command for which the client should have logged in before (RFC 4954 section 6)."""
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class Reply(NamedTuple):
    """A reply of the server: `code` (RFC 5321 section 4.2.1) and its text, on one line."""

    code: int
    text: str

    @property
    def accepts(self) -> bool:
        """Return whether the code is 2xx."""
        return 200 <= self.code <= 299

    @property
    def rejects(self) -> bool:
        """Return whether the code is 5xx, which is final."""
        return 500 <= self.code <= 599


class MailServerUnavailable(Exception):
    """There is no session with the server, and nothing of the message was sent.

    Attributes:

    - `reason`: a few words without anything secret or personal in them, which may be logged;
    - `code`: the code of the server's reply, or None if it sent none.

    The text of the error is the reason together with the server's reply.
    """

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason if reply is None else f"{reason} ({reply.code} {reply.text})")
        self.reason = reason
        self.code = reply.code if reply is not None else None


class LoginRefused(MailServerUnavailable):
    """The server did not accept the credentials, or requires a login and the settings name no credentials."""


class AnswerMissing(Exception):
    """The message was sent, at least in part, and the server's reply was not received."""


class MailSession(Protocol):
    """A connection on which one message may be sent.

    Each method but `send_content` raises `MailServerUnavailable`.
    """

    offers_8bitmime: bool
    offers_smtputf8: bool

    def start_message(self, sender: str, *, size_bytes: int, eight_bit: bool, smtputf8: bool) -> Reply:
        """Send MAIL FROM. The address has no angle brackets; an empty one is the null sender.

        `eight_bit` announces a body with bytes beyond ASCII, `smtputf8` also a header or addresses with such bytes.
        The caller asks for them only where the session offers them.
        """

    def add_recipient(self, address: str) -> Reply:
        """Send RCPT TO."""

    def open_content(self) -> Reply | None:
        """Send DATA. Return None when the server waits for the message, else its reply: a 4xx or a 5xx."""

    def send_content(self, content: bytes, *, timeout_seconds: float) -> Reply:
        """Send the message, whose lines end with CRLF, and return the reply. Raises `AnswerMissing` and nothing else.

        `timeout_seconds` bounds both together. Nothing checks any more whether the attempt must stop.
        """


class MailServer(Protocol):
    """A server that accepts messages."""

    def connect(self, check: Callable[[], None]) -> AbstractContextManager[MailSession]:
        """Open a session: connect, greet and log in. Raises `MailServerUnavailable`.

        `check` is called during every wait, and ends the wait by raising.
        """


@dataclass(frozen=True)
class SmtpAddress:
    """Where the server is, how the connection is encrypted, and how to log in."""

    host: str
    port: int
    tls_at_once: bool = False
    starttls: bool = False
    verify: bool = True
    user: str | None = None
    password: str = field(default="", repr=False)


def parse_smtp_url(url: str) -> SmtpAddress:
    """Parse `smtp://user:password@host:587?starttls=1` or `smtps://…`. Raises `ConfigurationError`.

    With `starttls=1`, nothing is sent to a server that does not offer STARTTLS. Certificates are verified against the
    system's authorities and the host in the URL; `verify=0` switches that off.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise ConfigurationError("TASKMILL_SMTP_URL: the port must be a number from 0 to 65535") from None
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname or parts.path not in {"", "/"}:
        raise ConfigurationError("TASKMILL_SMTP_URL must be smtp://host:port or smtps://host:port")
    flags = {"starttls": False, "verify": True}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in flags or value.lower() not in _FLAGS:
            raise ConfigurationError(
                "TASKMILL_SMTP_URL: the only options after `?` are starttls=1 or 0 and verify=1 or 0"
            )
        flags[name] = _FLAGS[value.lower()]
    return SmtpAddress(
        host=parts.hostname,
        port=port or (465 if parts.scheme == "smtps" else 25),
        tls_at_once=parts.scheme == "smtps",
        starttls=flags["starttls"] and parts.scheme == "smtp",
        verify=flags["verify"],
        user=unquote(parts.username) if parts.username is not None else None,
        password=unquote(parts.password or ""),
    )


class SmtpServer:
    """A `MailServer` that is reached over a socket."""

    def __init__(self, address: SmtpAddress, *, reply_timeout_seconds: float = REPLY_TIMEOUT_SECONDS) -> None:
        self._address = address
        self._reply_timeout_seconds = reply_timeout_seconds

    @contextmanager
    def connect(self, check: Callable[[], None]) -> Iterator[MailSession]:
        with _raising_unavailable():
            client = self._open(check)
        try:
            with _raising_unavailable():
                self._greet_and_log_in(client)
            yield _SmtpSession(client)
        finally:
            # The outcome is known already: a server that is slow to answer QUIT must not delay it.
            client.set_wait(check=_check_nothing, timeout_seconds=QUIT_TIMEOUT_SECONDS)
            if client.may_send_quit:
                with suppress(OSError, ValueError):
                    client.docmd("QUIT")
            client.close()

    def _open(self, check: Callable[[], None]) -> _Client:
        address = self._address
        if address.tls_at_once:
            return _TlsClient(check, self._reply_timeout_seconds, address, self._make_tls_context())
        return _Client(check, self._reply_timeout_seconds, address)

    def _greet_and_log_in(self, client: _Client) -> None:
        client.greet()
        if self._address.starttls:
            if not client.has_extn("starttls"):
                raise MailServerUnavailable("the server does not offer STARTTLS")
            try:
                client.starttls(context=self._make_tls_context())
            except smtplib.SMTPResponseException as error:
                reply = _make_reply(error.smtp_code, error.smtp_error)
                raise MailServerUnavailable("the server refused STARTTLS", reply) from None
            client.greet()
        if self._address.user is not None:
            self._log_in(client, self._address.user)

    def _log_in(self, client: _Client, user: str) -> None:
        try:
            client.login(user, self._address.password)
        except smtplib.SMTPNotSupportedError:
            raise LoginRefused("the server offers no login on this connection") from None
        except UnicodeEncodeError:
            raise LoginRefused("the credentials contain characters that are not ASCII") from None
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPServerDisconnected):
            # smtplib tries one mechanism after the other. A server that closes the connection after it refused one has
            # given the reason: the operator needs that reply, and not the end of the connection.
            if client.login_refusal is None:
                raise
            raise LoginRefused("the server refused the credentials", client.login_refusal) from None
        except smtplib.SMTPException as error:
            raise LoginRefused("the server offers no login mechanism that is supported here") from error

    def _make_tls_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not self._address.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _Client(smtplib.SMTP):
    """smtplib's client, which checks during every wait for a reply whether the attempt must stop.

    It also keeps each reply that a server sends before it closes the connection.
    """

    def __init__(self, check: Callable[[], None], timeout_seconds: float, address: SmtpAddress) -> None:
        self._prepare(check, timeout_seconds)
        # With a name given, smtplib does not ask the resolver for this host's, which may take long.
        super().__init__(address.host, address.port, local_hostname="localhost", timeout=SOCKET_TIMEOUT_SECONDS)
        self._finish_connecting()

    def _prepare(self, check: Callable[[], None], timeout_seconds: float) -> None:
        self.set_wait(check=check, timeout_seconds=timeout_seconds)
        self._received = bytearray()
        self.may_send_quit = True
        self.login_refusal: Reply | None = None

    def _finish_connecting(self) -> None:
        assert self.sock is not None
        self.local_hostname = _name_this_host(self.sock)
        # The addresses of RFC 6531 are sent in UTF-8, and the bytes of all others are the same in it.
        self.command_encoding = "utf-8"

    def set_wait(self, *, check: Callable[[], None], timeout_seconds: float) -> None:
        """Set the function that each wait for a reply calls repeatedly, and how long it may last."""
        self._check = check
        self._timeout_seconds = timeout_seconds

    def greet(self) -> None:
        """Send EHLO, and HELO where the server does not know EHLO. Raises `MailServerUnavailable`."""
        reply = _make_reply(*self.ehlo())
        if reply.code in _EHLO_NOT_KNOWN:
            with suppress(smtplib.SMTPServerDisconnected):
                reply = _make_reply(*self.helo())
        if not reply.accepts:
            raise MailServerUnavailable("the server refused the session", reply)

    def starttls(self, *args: Any, **options: Any) -> tuple[int, bytes]:
        """Start TLS, and forget what was received before, which anyone on the network could have sent (RFC 3207)."""
        answer = super().starttls(*args, **options)
        self._received.clear()
        return answer

    def auth(self, *args: Any, **options: Any) -> tuple[int, bytes]:
        """Try one mechanism, and keep a 5xx that refuses it in `login_refusal`. Raises `MailServerUnavailable` for a 4xx."""
        try:
            return super().auth(*args, **options)
        except smtplib.SMTPAuthenticationError as error:
            reply = _make_reply(error.smtp_code, error.smtp_error)
            if not reply.rejects:
                raise MailServerUnavailable("the server could not check the credentials", reply) from None
            self.login_refusal = reply
            raise

    def send(self, data: Any) -> None:
        """Send bytes. When the server has closed the connection, raise the reply that it sent before, if there is one."""
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        try:
            self.sock.sendall(data.encode(self.command_encoding) if isinstance(data, str) else data)
        except OSError as error:
            raise smtplib.SMTPResponseException(*self.getreply()) from error

    def getreply(self) -> tuple[int, bytes]:
        """Return the code and the text of the next reply; the code of anything that is not a reply is -1.

        Raises `SMTPServerDisconnected` when the server closed the connection, `TimeoutError` when no whole reply came
        in time, and what `check` raises. A 4xx or 5xx counts even if the server closed the connection in its middle.
        """
        try:
            return self._receive_reply(time.monotonic() + self._timeout_seconds)
        except BaseException:
            self.may_send_quit = False
            self.close()
            raise

    def _receive_reply(self, end: float) -> tuple[int, bytes]:
        code, texts, size = _NO_CODE, [], 0
        while True:
            try:
                line = self._receive_line(end)
            except smtplib.SMTPServerDisconnected:
                if not 400 <= code <= 599:
                    raise
                break
            size += len(line)
            if size > _MAX_REPLY_BYTES:
                raise smtplib.SMTPException("the reply is too long")
            code = int(line[:3]) if re.match(rb"\d{3}(?!\d)", line) else _NO_CODE
            texts.append(line[4:].strip())
            if code == _NO_CODE or line[3:4] != b"-":
                break
        return code, b"\n".join(texts)

    def _receive_line(self, end: float) -> bytes:
        """Return the next line; the last one before the server closed the connection may lack its end."""
        while b"\n" not in self._received:
            if len(self._received) > _MAX_REPLY_BYTES:
                raise smtplib.SMTPException("the line is too long")
            piece = self._receive(end)
            if not piece:
                if not self._received:
                    raise smtplib.SMTPServerDisconnected("the server closed the connection")
                self._received += b"\n"
            self._received += piece
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        return line

    def _receive(self, end: float) -> bytes:
        """Wait for bytes and return them; none when the connection has ended."""
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        usual_timeout = self.sock.gettimeout()
        try:
            while (left := end - time.monotonic()) > 0:
                self.sock.settimeout(min(left, STOP_CHECK_SECONDS))
                try:
                    return self.sock.recv(_RECEIVE_BYTES)
                except TimeoutError:
                    self._check()
                except ConnectionError:
                    return b""
            raise TimeoutError("no reply in time")
        finally:
            self.sock.settimeout(usual_timeout)


class _TlsClient(smtplib.SMTP_SSL, _Client):
    """A client that starts TLS before the first byte (smtps)."""

    def __init__(
        self, check: Callable[[], None], timeout_seconds: float, address: SmtpAddress, context: ssl.SSLContext
    ) -> None:
        self._prepare(check, timeout_seconds)
        smtplib.SMTP_SSL.__init__(
            self,
            address.host,
            address.port,
            local_hostname="localhost",
            timeout=SOCKET_TIMEOUT_SECONDS,
            context=context,
        )
        self._finish_connecting()


class _SmtpSession:
    """A `MailSession` on a client that has greeted the server and logged in."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self.offers_8bitmime = client.has_extn("8bitmime")
        self.offers_smtputf8 = self.offers_8bitmime and client.has_extn("smtputf8")

    def start_message(self, sender: str, *, size_bytes: int, eight_bit: bool, smtputf8: bool) -> Reply:
        parameters = f" SIZE={size_bytes}" if self._client.has_extn("size") else ""
        parameters += " BODY=8BITMIME" if eight_bit or smtputf8 else ""
        parameters += " SMTPUTF8" if smtputf8 else ""
        return self._command(f"MAIL FROM:<{sender}>{parameters}")

    def add_recipient(self, address: str) -> Reply:
        return self._command(f"RCPT TO:<{address}>")

    def open_content(self) -> Reply | None:
        with _raising_unavailable():
            code, text = self._client.docmd("DATA")
        # After a 354 the server would take QUIT for a line of the message.
        self._client.may_send_quit = code != 354
        if code == 354:
            return None
        reply = _make_expected_reply(code, text)
        if reply.accepts:
            raise MailServerUnavailable("the server sent an unexpected reply", reply)
        return reply

    def send_content(self, content: bytes, *, timeout_seconds: float) -> Reply:
        end = time.monotonic() + timeout_seconds
        client = self._client
        try:
            if client.sock is None:
                raise AnswerMissing("the connection is closed")
            client.sock.settimeout(max(timeout_seconds, 1.0))
            # A server may send its reply and close the connection before it has read the whole message. That reply is
            # the answer to the message.
            with suppress(OSError):
                client.sock.sendall(_stuff_dots(content) + b".\r\n")
            left = max(end - time.monotonic(), 1.0)
            client.sock.settimeout(left)
            client.set_wait(check=_check_nothing, timeout_seconds=left)
            code, text = client.getreply()
        except (OSError, ValueError) as error:
            raise AnswerMissing("the server's reply to the message was not received") from error
        if not (200 <= code <= 299 or 400 <= code <= 599):
            raise AnswerMissing("the server's reply to the message is not an SMTP reply")
        client.may_send_quit = True
        return _make_reply(code, text)

    def _command(self, command: str) -> Reply:
        with _raising_unavailable():
            code, text = self._client.docmd(command)
            return _make_expected_reply(code, text)


@contextmanager
def _raising_unavailable() -> Iterator[None]:
    """Raise `MailServerUnavailable` in place of every error that a connection may end with."""
    try:
        yield
    except smtplib.SMTPResponseException as error:
        reply = _make_reply(error.smtp_code, error.smtp_error)
        raise MailServerUnavailable("the server refused the session", reply) from None
    except smtplib.SMTPServerDisconnected:
        raise MailServerUnavailable("the server closed the connection") from None
    except smtplib.SMTPException as error:
        raise MailServerUnavailable(_NOT_SMTP) from error
    except ssl.SSLCertVerificationError:
        raise MailServerUnavailable("the server's certificate cannot be verified") from None
    except ssl.SSLError as error:
        raise MailServerUnavailable("the TLS connection failed") from error
    except TimeoutError:
        raise MailServerUnavailable("the server did not answer in time") from None
    except ConnectionRefusedError:
        raise MailServerUnavailable("the connection was refused") from None
    except socket.gaierror:
        raise MailServerUnavailable("the server's name was not found") from None
    except (OSError, UnicodeError) as error:
        raise MailServerUnavailable("the connection failed") from error


def _make_expected_reply(code: int, text: bytes) -> Reply:
    """Return the reply to a command. Raises `MailServerUnavailable` when it is none that the command can have."""
    reply = _make_reply(code, text)
    if code == _AUTHENTICATION_REQUIRED:
        raise LoginRefused("the server requires a login", reply)
    if not (200 <= code <= 299 or 400 <= code <= 599):
        raise MailServerUnavailable("the server sent an unexpected reply", reply)
    return reply


def _make_reply(code: int, text: bytes | str) -> Reply:
    """Return a reply with its text on one bounded line. Raises `MailServerUnavailable` when the code is no SMTP code."""
    if not 200 <= code <= 599:
        raise MailServerUnavailable(_NOT_SMTP)
    decoded = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    return Reply(code, " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", decoded).split())[:MAX_REPLY_CHARACTERS])


def _stuff_dots(content: bytes) -> bytes:
    """Return the content with each dot that begins a line doubled (RFC 5321 section 4.5.2) and its last line ended."""
    stuffed = re.sub(rb"(?m)^\.", b"..", content)
    return stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n"


def _name_this_host(sock: socket.socket) -> str:
    """Return the argument of EHLO: the host's full name, or its address in brackets (RFC 5321 section 4.1.3)."""
    name = socket.gethostname()
    if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
        return name
    address = str(sock.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _check_nothing() -> None:
    """Raise nothing: the check of a wait that must not end early."""
