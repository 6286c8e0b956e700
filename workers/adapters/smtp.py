"""The mail server: a port of few words, and its real form on smtplib.

The dialogue (RFC 5321) is taken step by step, because for a message that must never go out twice it matters where it
ended:

    connect, EHLO, STARTTLS, AUTH     `MailServerUnavailable`: nothing of the message has gone
    MAIL FROM, RCPT TO, DATA          a `Reply`, or `MailServerUnavailable`: nothing of the message has gone
    the message, up to its dot        a `Reply`, or `AnswerMissing`: nobody can know

    MailServerUnavailable             it may be tried again without harm
    └── LoginRefused                  until someone corrects the credentials
    AnswerMissing                     the server may or may not have the message

Every wait is bounded, and until the message itself goes every wait asks, several times a second, whether the attempt
should end.
"""

from __future__ import annotations

import re
import selectors
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from shared.errors import ConfigurationError

SOCKET_TIMEOUT_SECONDS = 10.0
"""For one step of the network's: a connection, a handshake of TLS, the rest of a reply that has begun."""
REPLY_TIMEOUT_SECONDS = 60.0
"""Less than the minutes of RFC 5321 section 4.5.3.2: a later attempt waits at less cost than a worker does."""
GOODBYE_TIMEOUT_SECONDS = 2.0
CHECK_SECONDS = 0.25
MAX_REPLY_LENGTH = 400
"""Characters of a reply's text that are read."""

_AUTHENTICATION_REQUIRED = 530
"""The answer to any command of one who should have logged in (RFC 4954 section 6)."""
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class Reply(NamedTuple):
    """What the server said: `code` (RFC 5321 section 4.2.1) and its text, on one line."""

    code: int
    text: str

    @property
    def accepts(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.code <= 299

    @property
    def rejects(self) -> bool:
        """Whether it is a 5xx, which is final."""
        return 500 <= self.code <= 599


class MailServerUnavailable(Exception):
    """The server was not reached, hung up, or spoke nonsense; nothing of the message has gone.

    `reason` says so in a few words, with nothing secret or personal in it; `code` is that of the server's reply, if it
    gave one. The text of the error is both, and what the server said.
    """

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason if reply is None else f"{reason} ({reply.code} {reply.text})")
        self.reason = reason
        self.code = reply.code if reply is not None and 200 <= reply.code <= 599 else None


class LoginRefused(MailServerUnavailable):
    """The server does not take the credentials, or wants some and was given none."""


class AnswerMissing(Exception):
    """The message went out, or part of it, and its answer did not come."""


class MailSession(Protocol):
    """A connection on which one message may be sent. Every method raises `MailServerUnavailable` unless it says not."""

    offers_smtputf8: bool

    def start_message(self, sender: str, *, size_bytes: int, smtputf8: bool) -> Reply:
        """Say MAIL FROM. Addresses are given without angle brackets; an empty one is the null sender."""

    def add_recipient(self, address: str) -> Reply:
        """Say RCPT TO."""

    def open_content(self) -> Reply | None:
        """Say DATA. None when the server waits for the message, else why not: a 4xx or a 5xx."""

    def send_content(self, content: bytes, *, timeout_seconds: float) -> Reply:
        """Send the message, its lines ended by CRLF, and give the answer. Raises `AnswerMissing`, and nothing else.

        `timeout_seconds` bounds both together. From here on nothing asks whether the attempt should end.
        """


class MailServer(Protocol):
    """A server that takes messages."""

    def connect(self, check: Callable[[], None]) -> AbstractContextManager[MailSession]:
        """Open a session, greeted and logged in. Raises `MailServerUnavailable`.

        `check` is called while waiting, and ends the wait by raising.
        """


@dataclass(frozen=True)
class SmtpAddress:
    """Where the server is, and how to speak to it."""

    host: str
    port: int
    tls_at_once: bool = False
    starttls: bool = False
    verify: bool = True
    user: str | None = None
    password: str = field(default="", repr=False)


def parse_smtp_url(url: str) -> SmtpAddress:
    """Read `smtp://user:password@host:587?starttls=1` or `smtps://…`. Raises `ConfigurationError`.

    With `starttls=1`, nothing is sent to a server that does not offer it. Certificates are verified against the
    system's authorities and the name in the URL, unless `verify=0` says to trust whoever answers.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise ConfigurationError("TASKMILL_SMTP_URL: the port is no number from 0 to 65535") from None
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname or parts.path not in {"", "/"}:
        raise ConfigurationError("TASKMILL_SMTP_URL must be smtp://host:port or smtps://host:port")
    flags = {"starttls": False, "verify": True}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in flags or value.lower() not in _FLAGS:
            raise ConfigurationError("TASKMILL_SMTP_URL: after `?`, only starttls=1 or 0 and verify=1 or 0 are known")
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
    """A `MailServer` at the other end of a socket."""

    def __init__(self, address: SmtpAddress, *, reply_timeout_seconds: float = REPLY_TIMEOUT_SECONDS) -> None:
        self._address = address
        self._reply_timeout_seconds = reply_timeout_seconds

    @contextmanager
    def connect(self, check: Callable[[], None]) -> Iterator[MailSession]:
        with _unavailable_unless_spoken():
            client = self._open(check)
        try:
            with _unavailable_unless_spoken():
                self._greet_and_log_in(client)
            yield _SmtpSession(client)
        finally:
            # A server that was told goodbye, and takes the time to answer, must not hold up what is already known.
            client.waits(check=_nothing_to_check, timeout_seconds=GOODBYE_TIMEOUT_SECONDS)
            if client.may_say_goodbye:
                with suppress(OSError, ValueError):
                    client.docmd("QUIT")
            client.close()

    def _open(self, check: Callable[[], None]) -> _Client:
        address = self._address
        if address.tls_at_once:
            return _TlsClient(check, self._reply_timeout_seconds, address, self._make_tls_context())
        return _Client(check, self._reply_timeout_seconds, address)

    def _greet_and_log_in(self, client: _Client) -> None:
        client.ehlo_or_helo_if_needed()
        if self._address.starttls:
            if not client.has_extn("starttls"):
                raise MailServerUnavailable("it does not offer STARTTLS")
            code, text = client.starttls(context=self._make_tls_context())
            if code != 220:
                raise MailServerUnavailable("it refused STARTTLS", _make_reply(code, text))
            client.ehlo_or_helo_if_needed()
        if self._address.user is not None:
            try:
                client.login(self._address.user, self._address.password)
            except smtplib.SMTPAuthenticationError as error:
                reply = _make_reply(error.smtp_code, error.smtp_error)
                if reply.rejects:
                    raise LoginRefused("it refused the credentials", reply) from None
                raise MailServerUnavailable("it could not check the credentials", reply) from None
            except smtplib.SMTPNotSupportedError:
                raise LoginRefused("it does not offer a login on this connection") from None
            except UnicodeEncodeError:
                raise LoginRefused("the credentials hold characters beyond ASCII") from None

    def _make_tls_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not self._address.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _Client(smtplib.SMTP):
    """smtplib's client, whose waits for a reply are short ones, one after the other."""

    def __init__(self, check: Callable[[], None], timeout_seconds: float, address: SmtpAddress) -> None:
        self.waits(check=check, timeout_seconds=timeout_seconds)
        self.may_say_goodbye = True
        # A name is given, or smtplib asks the resolver for ours, which may take long.
        super().__init__(address.host, address.port, local_hostname="localhost", timeout=SOCKET_TIMEOUT_SECONDS)
        self._become_ready()

    def _become_ready(self) -> None:
        assert self.sock is not None
        self.local_hostname = _name_this_host(self.sock)
        # Addresses of RFC 6531 go in UTF-8, and others are ASCII in it too.
        self.command_encoding = "utf-8"

    def waits(self, *, check: Callable[[], None], timeout_seconds: float) -> None:
        """Say what to ask while waiting for a reply, and how long to wait for each."""
        self._check = check
        self._timeout_seconds = timeout_seconds

    def getreply(self) -> tuple[int, bytes]:
        try:
            self._wait_for_a_reply()
        except BaseException:
            self.may_say_goodbye = False
            self.close()
            raise
        return super().getreply()

    def _wait_for_a_reply(self) -> None:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        end = time.monotonic() + self._timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            while not (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()):
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError("no reply in time")
                if selector.select(min(left, CHECK_SECONDS)):
                    return
                self._check()


class _TlsClient(smtplib.SMTP_SSL, _Client):
    """The same, with TLS from the first byte."""

    def __init__(
        self, check: Callable[[], None], timeout_seconds: float, address: SmtpAddress, context: ssl.SSLContext
    ) -> None:
        self.waits(check=check, timeout_seconds=timeout_seconds)
        self.may_say_goodbye = True
        smtplib.SMTP_SSL.__init__(
            self,
            address.host,
            address.port,
            local_hostname="localhost",
            timeout=SOCKET_TIMEOUT_SECONDS,
            context=context,
        )
        self._become_ready()


class _SmtpSession:
    """A `MailSession` on a client that is greeted and logged in."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self.offers_smtputf8 = client.has_extn("smtputf8") and client.has_extn("8bitmime")

    def start_message(self, sender: str, *, size_bytes: int, smtputf8: bool) -> Reply:
        parameters = f" SIZE={size_bytes}" if self._client.has_extn("size") else ""
        parameters += " BODY=8BITMIME SMTPUTF8" if smtputf8 else ""
        return self._say(f"MAIL FROM:<{sender}>{parameters}")

    def add_recipient(self, address: str) -> Reply:
        return self._say(f"RCPT TO:<{address}>")

    def open_content(self) -> Reply | None:
        with _unavailable_unless_spoken():
            code, text = self._client.docmd("DATA")
        # From here on a QUIT would be taken for a line of the message.
        self._client.may_say_goodbye = code != 354
        if code == 354:
            return None
        reply = _make_known_reply(code, text)
        if reply.accepts:
            raise MailServerUnavailable("it does not speak as expected", reply)
        return reply

    def send_content(self, content: bytes, *, timeout_seconds: float) -> Reply:
        end = time.monotonic() + timeout_seconds
        client = self._client
        try:
            if client.sock is None:
                raise AnswerMissing("the connection is closed")
            client.sock.settimeout(max(timeout_seconds, 1.0))
            # A server that had enough before the end says why and hangs up: what it said is its answer.
            with suppress(OSError):
                client.sock.sendall(_stuff_dots(content) + b".\r\n")
            left = max(end - time.monotonic(), 1.0)
            client.sock.settimeout(left)
            client.waits(check=_nothing_to_check, timeout_seconds=left)
            code, text = client.getreply()
        except (OSError, ValueError) as error:
            raise AnswerMissing("the answer did not come") from error
        if not (200 <= code <= 299 or 400 <= code <= 599):
            raise AnswerMissing("the answer cannot be read")
        client.may_say_goodbye = True
        return _make_reply(code, text)

    def _say(self, command: str) -> Reply:
        with _unavailable_unless_spoken():
            code, text = self._client.docmd(command)
            return _make_known_reply(code, text)


@contextmanager
def _unavailable_unless_spoken() -> Iterator[None]:
    """Turn everything that may happen to a connection into `MailServerUnavailable`."""
    try:
        yield
    except smtplib.SMTPResponseException as error:
        reply = _make_reply(error.smtp_code, error.smtp_error)
        raise MailServerUnavailable("it refused the session", reply) from None
    except smtplib.SMTPServerDisconnected as error:
        stalled = isinstance(error.__context__, TimeoutError)
        raise MailServerUnavailable("it did not answer in time" if stalled else "it hung up") from None
    except smtplib.SMTPException as error:
        raise MailServerUnavailable("it does not speak as expected") from error
    except ssl.SSLCertVerificationError:
        raise MailServerUnavailable("its certificate cannot be trusted") from None
    except ssl.SSLError as error:
        raise MailServerUnavailable("the encrypted connection failed") from error
    except TimeoutError:
        raise MailServerUnavailable("it did not answer in time") from None
    except ConnectionRefusedError:
        raise MailServerUnavailable("it refused the connection") from None
    except socket.gaierror:
        raise MailServerUnavailable("its name was not found") from None
    except (OSError, UnicodeError) as error:
        raise MailServerUnavailable("the connection failed") from error


def _make_known_reply(code: int, text: bytes) -> Reply:
    """Give a reply to a command; one that means nothing here leaves nothing to go on with."""
    reply = _make_reply(code, text)
    if code == _AUTHENTICATION_REQUIRED:
        raise LoginRefused("it wants credentials", reply)
    if not (200 <= code <= 299 or 400 <= code <= 599):
        raise MailServerUnavailable("it does not speak as expected")
    return reply


def _make_reply(code: int, text: bytes | str) -> Reply:
    decoded = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    return Reply(code, " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", decoded).split())[:MAX_REPLY_LENGTH])


def _stuff_dots(content: bytes) -> bytes:
    """Double each dot that begins a line (RFC 5321 section 4.5.2), and end the last line."""
    stuffed = re.sub(rb"(?m)^\.", b"..", content)
    return stuffed if stuffed.endswith(b"\r\n") else stuffed + b"\r\n"


def _name_this_host(sock: socket.socket) -> str:
    """Give what to say in EHLO: the host's full name, or its address in brackets (RFC 5321 section 4.1.3)."""
    name = socket.gethostname()
    if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
        return name
    address = str(sock.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _nothing_to_check() -> None:
    """Let a wait go on."""
