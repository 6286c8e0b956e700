from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from io import BufferedRWPair
from pathlib import Path
from types import EllipsisType
from typing import Protocol

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from shared.errors import ConfigurationError
from tests.conftest import PATIENCE_SECONDS
from workers.adapters.memory_smtp import MemorySmtp
from workers.adapters.smtp import (
    AnswerMissing,
    LoginRefused,
    MailServer,
    MailServerUnavailable,
    MailSession,
    Reply,
    SmtpAddress,
    SmtpServer,
    parse_smtp_url,
)
from workers.outcomes import Cancelled

CERTIFICATE = Path(__file__).parent / "localhost.pem"
"""A self-signed certificate of localhost and its key, for these tests only."""
CONTENT = b"Subject: Hello\r\n\r\n.\r\nHi\r\n"


class Closing(str):
    """A reply after which the server closes the connection. It is sent without a line end if it has none."""


Answer = str | Closing | EllipsisType | None
"""What a server does after a command: it replies, closes the connection (None), or stays silent (`...`)."""


def never_stop() -> None:
    pass


class ScriptedDialogue:
    """A server that looks up its answer to each command by the command's first word.

    `""` stands for the connection, which the server answers with its greeting, and `"."` for the end of the message.
    """

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers: dict[str, Answer] = {
            "": "220 hello",
            "EHLO": "250-hello\r\n250 SIZE 1000000",
            "MAIL": "250 OK",
            "RCPT": "250 OK",
            "DATA": "354 go on",
            ".": "250 taken",
            "QUIT": "221 bye",
        } | answers
        self.lines: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def client(self, reply_timeout_seconds: float = 20.0, user: str | None = None) -> SmtpServer:
        address = SmtpAddress("127.0.0.1", self.port, user=user, password="secret")
        return SmtpServer(address, reply_timeout_seconds=reply_timeout_seconds)

    def stop(self) -> None:
        self._done.set()
        self._thread.join(PATIENCE_SECONDS)
        self._listener.close()

    def _serve(self) -> None:
        self._listener.settimeout(0.05)
        while not self._done.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                try:
                    self._converse(connection, stream)
                except OSError:
                    continue

    def _converse(self, connection: socket.socket, stream: BufferedRWPair) -> None:
        command, in_content = "", False
        while True:
            answer = self.answers.get(command, "500 what?")
            if answer is ...:
                self._done.wait(20)
                return
            if isinstance(answer, str):
                stream.write(answer.encode() + (b"" if isinstance(answer, Closing) else b"\r\n"))
                stream.flush()
            if answer is None or isinstance(answer, Closing):
                connection.shutdown(socket.SHUT_RDWR)
                return
            if command == "QUIT":
                return
            in_content = command == "DATA" and answer.startswith("354")
            while True:
                line = stream.readline()
                if not line:
                    return
                self.lines.append(line)
                if not in_content or line == b".\r\n":
                    break
            command = "." if in_content else line.split()[0].decode().upper()


class StartDialogue(Protocol):
    """The fixture `start`."""

    def __call__(self, answers: dict[str, Answer] | None = None) -> ScriptedDialogue:
        """Start a server that answers as given, and as a healthy server otherwise."""


@pytest.fixture
def start() -> Iterator[StartDialogue]:
    started: list[ScriptedDialogue] = []

    def start_one(answers: dict[str, Answer] | None = None) -> ScriptedDialogue:
        started.append(ScriptedDialogue(answers or {}))
        return started[-1]

    yield start_one
    for dialogue in started:
        dialogue.stop()


def start_message(session: MailSession, size_bytes: int = 1) -> Reply:
    return session.start_message("a@example.com", size_bytes=size_bytes, eight_bit=False, smtputf8=False)


def send(session: MailSession, *recipients: str, timeout_seconds: float = 20.0) -> Reply:
    """Send a message in a whole session and return the reply to it."""
    assert start_message(session, len(CONTENT)).accepts
    for recipient in recipients or ("b@example.com",):
        assert session.add_recipient(recipient).accepts
    assert session.open_content() is None
    return session.send_content(CONTENT, timeout_seconds=timeout_seconds)


def find_trouble(server: SmtpServer) -> MailServerUnavailable:
    """Return the error in which the dialogue ends before the message."""
    with pytest.raises(MailServerUnavailable) as caught, server.connect(never_stop) as session:
        send(session)
    return caught.value


@pytest.fixture(params=["socket", "memory"])
def healthy(request: pytest.FixtureRequest, start: StartDialogue) -> MailServer:
    return start().client() if request.param == "socket" else MemorySmtp()


def test_a_server_and_its_twin_accept_a_message(healthy: MailServer) -> None:
    with healthy.connect(never_stop) as session:
        assert send(session).accepts


def test_the_dialogue_follows_rfc_5321(start: StartDialogue) -> None:
    dialogue = start()

    with dialogue.client().connect(never_stop) as session:
        send(session, "b@example.com", '"c d"@example.com')

    greeting, *rest = dialogue.lines
    assert greeting.startswith(b"ehlo ") or greeting.startswith(b"EHLO ")
    assert rest == [
        b"MAIL FROM:<a@example.com> SIZE=%d\r\n" % len(CONTENT),
        b"RCPT TO:<b@example.com>\r\n",
        b'RCPT TO:<"c d"@example.com>\r\n',
        b"DATA\r\n",
        b"Subject: Hello\r\n",
        b"\r\n",
        b"..\r\n",
        b"Hi\r\n",
        b".\r\n",
        b"QUIT\r\n",
    ]


@pytest.mark.parametrize(
    ("eight_bit", "smtputf8", "parameters"),
    [(False, False, b""), (True, False, b" BODY=8BITMIME"), (True, True, b" BODY=8BITMIME SMTPUTF8")],
)
def test_a_message_beyond_ascii_is_announced(
    start: StartDialogue, eight_bit: bool, smtputf8: bool, parameters: bytes
) -> None:
    dialogue = start({"EHLO": "250-hello\r\n250-8BITMIME\r\n250 SMTPUTF8"})

    with dialogue.client().connect(never_stop) as session:
        assert session.offers_8bitmime
        assert session.offers_smtputf8
        session.start_message("a@example.com", size_bytes=1, eight_bit=eight_bit, smtputf8=smtputf8)

    assert dialogue.lines[1] == b"MAIL FROM:<a@example.com>" + parameters + b"\r\n"


CLOSED = "the server closed the connection"
REFUSED = "the server refused the session"
SILENT = "the server did not answer in time"
NOT_SMTP = "the server sent something that is not an SMTP reply"
UNEXPECTED = "the server sent an unexpected reply"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"": None}, CLOSED),
        ({"": "SSH-2.0-OpenSSH_9.9"}, NOT_SMTP),
        ({"": "2200 hello"}, NOT_SMTP),
        ({"": "220 " + "x" * 100_000}, NOT_SMTP),
        ({"": "220-hello\r\n" * 10_000}, NOT_SMTP),
        ({"": ...}, SILENT),
        ({"": Closing("220-hello")}, CLOSED),
        ({"EHLO": None}, CLOSED),
        ({"EHLO": "hello"}, NOT_SMTP),
        ({"EHLO": ...}, SILENT),
        ({"MAIL": None}, CLOSED),
        ({"MAIL": "999 hello"}, NOT_SMTP),
        ({"MAIL": "354 what?"}, UNEXPECTED),
        ({"MAIL": ...}, SILENT),
        ({"RCPT": None}, CLOSED),
        ({"RCPT": "hello"}, NOT_SMTP),
        ({"DATA": None}, CLOSED),
        ({"DATA": "250 OK"}, UNEXPECTED),
        ({"DATA": ...}, SILENT),
    ],
)
def test_nothing_is_sent_when_the_dialogue_ends_before_the_message(
    start: StartDialogue, answers: dict[str, Answer], reason: str
) -> None:
    dialogue = start(answers)

    trouble = find_trouble(dialogue.client(0.5 if ... in answers.values() else 20.0))

    assert trouble.reason == reason
    assert b"Hi\r\n" not in dialogue.lines


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ({"": "554 go away"}, f"{REFUSED} (554 go away)"),
        ({"": Closing("421 4.3.2 try later\r\n")}, f"{REFUSED} (421 4.3.2 try later)"),
        ({"": "220 hello\r\n421 4.3.2 try later"}, f"{REFUSED} (421 4.3.2 try later)"),
        ({"": Closing("220 hello\r\n421 4.3.2 try later\r\n")}, f"{REFUSED} (421 4.3.2 try later)"),
        ({"EHLO": Closing("421 4.3.2 try later\r\n")}, f"{REFUSED} (421 4.3.2 try later)"),
        ({"EHLO": Closing("421 4.3.2 try later")}, f"{REFUSED} (421 4.3.2 try later)"),
        ({"EHLO": Closing("421-4.3.2 try\r\n421-later\r\n")}, f"{REFUSED} (421 4.3.2 try later)"),
        ({"EHLO": "451 busy"}, f"{REFUSED} (451 busy)"),
        ({"EHLO": Closing("554 5.7.1 not you\r\n")}, f"{REFUSED} (554 5.7.1 not you)"),
        ({"EHLO": Closing("502 what?\r\n")}, f"{REFUSED} (502 what?)"),
        ({"EHLO": "502 what?", "HELO": None}, f"{REFUSED} (502 what?)"),
        ({"EHLO": "502 what?", "HELO": "550 not you"}, f"{REFUSED} (550 not you)"),
        ({"MAIL": "354 what?"}, f"{UNEXPECTED} (354 what?)"),
        ({"RCPT": "530 5.7.0 log in"}, "the server requires a login (530 5.7.0 log in)"),
        ({"DATA": "250 OK"}, f"{UNEXPECTED} (250 OK)"),
    ],
)
def test_the_reply_that_ended_the_session_is_reported(
    start: StartDialogue, answers: dict[str, Answer], text: str
) -> None:
    trouble = find_trouble(start(answers).client())

    assert str(trouble) == text
    assert f"({trouble.code} " in text


@pytest.mark.parametrize("answer", ["454 4.7.0 no certificate", Closing("454 4.7.0 no certificate\r\n")])
def test_the_reply_that_refused_starttls_is_reported(start: StartDialogue, answer: str) -> None:
    dialogue = start({"EHLO": "250-hello\r\n250 STARTTLS", "STARTTLS": answer})

    trouble = find_trouble(SmtpServer(parse_smtp_url(f"smtp://127.0.0.1:{dialogue.port}?starttls=1")))

    assert (trouble.code, str(trouble)) == (454, "the server refused STARTTLS (454 4.7.0 no certificate)")


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (Closing("421 4.3.2 try later\r\n"), MailServerUnavailable, "the server could not check the credentials"),
        ("454 4.7.0 try later", MailServerUnavailable, "the server could not check the credentials"),
        (Closing("535 5.7.8 wrong\r\n"), LoginRefused, "the server refused the credentials"),
        ("535 5.7.8 wrong", LoginRefused, "the server refused the credentials"),
    ],
)
def test_the_reply_that_refused_the_login_is_reported(
    start: StartDialogue, answer: str, error: type[MailServerUnavailable], reason: str
) -> None:
    dialogue = start({"EHLO": "250-hello\r\n250 AUTH PLAIN LOGIN", "AUTH": answer})

    trouble = find_trouble(dialogue.client(user="operator"))

    assert type(trouble) is error
    assert str(trouble) == f"{reason} ({answer.strip()})"


def test_a_login_mechanism_that_is_not_supported_is_a_refused_login(start: StartDialogue) -> None:
    trouble = find_trouble(start({"EHLO": "250-hello\r\n250 AUTH XOAUTH2"}).client(user="operator"))

    assert isinstance(trouble, LoginRefused)


def test_helo_follows_an_ehlo_that_the_server_does_not_know(start: StartDialogue) -> None:
    with start({"EHLO": "500 what?", "HELO": "250 hello"}).client().connect(never_stop) as session:
        assert send(session).accepts


@pytest.mark.parametrize("answer", [None, ..., "hello", "354 more", Closing("250-taken\r\n")])
def test_a_message_without_a_reply_is_unknown(start: StartDialogue, answer: Answer) -> None:
    dialogue = start({".": answer})
    started = time.monotonic()

    with pytest.raises(AnswerMissing), dialogue.client().connect(never_stop) as session:
        send(session, timeout_seconds=1.0)

    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("answer", "code"),
    [("451 later", 451), ("554-no\r\n554 spam", 554), ("421 bye", 421), (Closing("554-spam\r\n"), 554)],
)
def test_a_refused_message_has_its_reply(start: StartDialogue, answer: str, code: int) -> None:
    with start({".": answer}).client().connect(never_stop) as session:
        assert send(session).code == code


def test_a_refusal_of_data_is_returned(start: StartDialogue) -> None:
    with start({"DATA": "503 no valid recipients"}).client().connect(never_stop) as session:
        start_message(session)
        assert session.open_content() == (503, "no valid recipients")


def test_a_command_that_requires_a_login_is_a_refused_login(start: StartDialogue) -> None:
    assert isinstance(find_trouble(start({"MAIL": "530 5.7.0 Authentication required"}).client()), LoginRefused)


def test_a_reply_is_one_bounded_line(start: StartDialogue) -> None:
    with start({"RCPT": "550-no\t\x07such\r\n550 " + "x" * 1000}).client().connect(never_stop) as session:
        start_message(session)
        reply = session.add_recipient("b@example.com")

    assert reply.text.startswith("no such xxx")
    assert len(reply.text) == 400


def test_a_wait_before_the_message_ends_when_the_attempt_must_stop(start: StartDialogue) -> None:
    def stop() -> None:
        raise Cancelled

    started = time.monotonic()

    with pytest.raises(Cancelled), start({"": ...}).client(20).connect(stop):
        pass

    assert time.monotonic() - started < 15


def test_a_server_that_does_not_answer_quit_delays_nothing(start: StartDialogue) -> None:
    started = time.monotonic()

    with start({"QUIT": ...}).client().connect(never_stop) as session:
        assert send(session).accepts

    # Shorter than the limit for any other reply.
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", "the connection was refused"), ("mail.invalid", "the server's name was not found")],
)
def test_a_server_that_cannot_be_reached_is_reported(host: str, reason: str) -> None:
    assert find_trouble(SmtpServer(SmtpAddress(host, 1))).reason == reason


class Keeper:
    """A handler of aiosmtpd that keeps every message."""

    def __init__(self) -> None:
        self.kept: list[Envelope] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.kept.append(envelope)
        return "250 OK"


class StartSecure(Protocol):
    """The fixture `start_secure`."""

    def __call__(self, *, tls: str, auth_required: bool = False, auth_require_tls: bool = True) -> tuple[Keeper, int]:
        """Start aiosmtpd with our certificate, and return its handler and port."""


@pytest.fixture
def start_secure(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartSecure]:
    """Start servers that accept the user `user` with the password `p@ss`."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    controllers: list[Controller] = []

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"user", b"p@ss"), handled=False)

    def start_one(*, tls: str, auth_required: bool = False, auth_require_tls: bool = True) -> tuple[Keeper, int]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
        keeper = Keeper()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        controller = Controller(
            keeper,
            hostname="127.0.0.1",
            port=port,
            ready_timeout=PATIENCE_SECONDS,
            authenticator=authenticate,
            auth_required=auth_required,
            auth_require_tls=auth_require_tls,
            ssl_context=context if tls == "at once" else None,
            tls_context=context if tls == "starttls" else None,
        )
        controller.start()
        controllers.append(controller)
        return keeper, port

    yield start_one
    for controller in controllers:
        controller.stop(no_assert=True)


@pytest.mark.parametrize(
    ("tls", "url", "auth"),
    [
        ("at once", "smtps://user:p%40ss@localhost:{port}", False),
        ("starttls", "smtp://user:p%40ss@localhost:{port}?starttls=1", True),
        ("starttls", "smtp://user:p%40ss@127.0.0.1:{port}?starttls=1", True),
        ("starttls", "smtp://localhost:{port}", False),
        ("", "smtp://localhost:{port}", False),
    ],
)
def test_messages_are_sent_over_every_kind_of_connection(
    start_secure: StartSecure, tls: str, url: str, auth: bool
) -> None:
    keeper, port = start_secure(tls=tls, auth_required=auth, auth_require_tls=tls == "starttls")

    with SmtpServer(parse_smtp_url(url.format(port=port))).connect(never_stop) as session:
        assert send(session).accepts

    assert len(keeper.kept) == 1


@pytest.mark.parametrize("login", ["user:wrong@", "someone:p%40ss@"])
def test_wrong_credentials_are_a_refused_login(start_secure: StartSecure, login: str) -> None:
    _, port = start_secure(tls="starttls")
    server = SmtpServer(parse_smtp_url(f"smtp://{login}localhost:{port}?starttls=1"))

    with pytest.raises(LoginRefused) as caught, server.connect(never_stop):
        pass

    assert caught.value.code == 535
    assert "wrong" not in str(caught.value)


def test_a_login_that_the_server_does_not_offer_is_a_refused_login(start_secure: StartSecure) -> None:
    _, port = start_secure(tls="starttls")

    with (
        pytest.raises(LoginRefused),
        SmtpServer(parse_smtp_url(f"smtp://user:p%40ss@localhost:{port}")).connect(never_stop),
    ):
        pass


@pytest.mark.parametrize("url", ["smtps://localhost:{port}", "smtp://localhost:{port}?starttls=1"])
def test_an_unknown_certificate_is_refused_unless_verify_is_0(
    start_secure: StartSecure, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    _, port = start_secure(tls="at once" if url.startswith("smtps") else "starttls")
    monkeypatch.delenv("SSL_CERT_FILE")
    url = url.format(port=port)

    with pytest.raises(MailServerUnavailable) as caught, SmtpServer(parse_smtp_url(url)).connect(never_stop):
        pass
    trusting = url + ("&" if "?" in url else "?") + "verify=0"
    with SmtpServer(parse_smtp_url(trusting)).connect(never_stop) as session:
        assert send(session).accepts

    assert caught.value.reason == "the server's certificate cannot be verified"


def test_nothing_is_sent_without_the_starttls_that_was_asked_for(start: StartDialogue) -> None:
    dialogue = start()

    trouble = find_trouble(SmtpServer(parse_smtp_url(f"smtp://127.0.0.1:{dialogue.port}?starttls=1")))

    assert trouble.reason == "the server does not offer STARTTLS"
    assert not [line for line in dialogue.lines if line.startswith(b"MAIL")]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("smtp://mail", SmtpAddress("mail", 25)),
        ("smtp://mail:587?starttls=1", SmtpAddress("mail", 587, starttls=True)),
        ("smtps://u:p%3A%2F@mail", SmtpAddress("mail", 465, tls_at_once=True, user="u", password="p:/")),
        ("smtp://[::1]:2525?verify=0", SmtpAddress("::1", 2525, verify=False)),
    ],
)
def test_a_url_names_the_server_and_its_options(url: str, address: SmtpAddress) -> None:
    assert parse_smtp_url(url) == address


@pytest.mark.parametrize(
    "url", ["", "mail:25", "http://mail", "smtp://", "smtp://m:x", "smtp://m?tls=1", "smtp://m?verify=2", "smtp://m/x"]
)
def test_an_invalid_url_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError, match="TASKMILL_SMTP_URL"):
        parse_smtp_url(url.replace("//m", "//u:secret@m"))


def test_the_password_is_not_in_the_representation() -> None:
    assert "secret" not in repr(parse_smtp_url("smtp://u:secret@mail"))
