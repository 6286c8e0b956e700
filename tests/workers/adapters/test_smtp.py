from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope

from shared.errors import ConfigurationError
from tests.conftest import PATIENCE_SECONDS
from workers.adapters.memory_smtp import MemorySmtp
from workers.adapters.smtp import (
    AnswerMissing,
    LoginRefused,
    MailServer,
    MailServerUnavailable,
    MailSession,
    SmtpAddress,
    SmtpServer,
    parse_smtp_url,
)
from workers.outcomes import Cancelled

CERTIFICATE = Path(__file__).parent / "localhost.pem"
"""A self-signed certificate of localhost and its key, for these tests alone."""
CONTENT = b"Subject: Hello\r\n\r\n.\r\nHi\r\n"


def never_stop() -> None:
    pass


class ScriptedDialogue:
    """A server that answers each command by its first word from a table, and lets any line be the wrong one.

    An answer of None hangs up, and one of `...` says nothing more. `""` is the greeting, `"."` the message's end.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
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
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def client(self, reply_timeout_seconds: float = 20.0) -> SmtpServer:
        address = SmtpAddress("127.0.0.1", self._listener.getsockname()[1])
        return SmtpServer(address, reply_timeout_seconds=reply_timeout_seconds)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
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

    def _converse(self, connection: socket.socket, stream: Any) -> None:
        command, in_content = "", False
        while True:
            answer = self.answers.get(command, "500 what?")
            if answer is None:
                connection.shutdown(socket.SHUT_RDWR)
                return
            if answer is ...:
                self._done.wait(20)
                return
            stream.write(answer.encode() + b"\r\n")
            stream.flush()
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


@pytest.fixture
def start() -> Iterator[Callable[..., ScriptedDialogue]]:
    started: list[ScriptedDialogue] = []

    def start_one(**answers: Any) -> ScriptedDialogue:
        started.append(ScriptedDialogue(**answers))
        return started[-1]

    yield start_one
    for dialogue in started:
        dialogue.stop()


def send(session: MailSession, *recipients: str, timeout_seconds: float = 20.0) -> Any:
    """Go through the whole dialogue, and give the answer to the message."""
    assert session.start_message("a@example.com", size_bytes=len(CONTENT), smtputf8=False).accepts
    for recipient in recipients or ("b@example.com",):
        assert session.add_recipient(recipient).accepts
    assert session.open_content() is None
    return session.send_content(CONTENT, timeout_seconds=timeout_seconds)


@pytest.fixture(params=["socket", "memory"])
def healthy(request: pytest.FixtureRequest, start: Callable[..., ScriptedDialogue]) -> MailServer:
    return start().client() if request.param == "socket" else MemorySmtp()


def test_a_server_and_its_twin_take_a_message(healthy: MailServer) -> None:
    with healthy.connect(never_stop) as session:
        assert send(session).accepts


def test_the_dialogue_is_as_the_rfc_has_it(start: Callable[..., ScriptedDialogue]) -> None:
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
    ("answers", "reason"),
    [
        ({"": None}, "it hung up"),
        ({"": "554 go away"}, "it refused the session"),
        ({"": "SSH-2.0-OpenSSH_9.9"}, "it refused the session"),
        ({"": "220 " + "x" * 10_000}, "it refused the session"),
        ({"EHLO": None}, "it hung up"),
        ({"EHLO": "502 what?", "HELO": "502 what?"}, "it refused the session"),
        ({"EHLO": ...}, "it did not answer in time"),
        ({"": ...}, "it did not answer in time"),
        ({"MAIL": None}, "it hung up"),
        ({"MAIL": "354 what?"}, "it does not speak as expected"),
        ({"MAIL": ...}, "it did not answer in time"),
        ({"RCPT": None}, "it hung up"),
        ({"RCPT": "hello"}, "it does not speak as expected"),
        ({"DATA": None}, "it hung up"),
        ({"DATA": "250 OK"}, "it does not speak as expected"),
        ({"DATA": ...}, "it did not answer in time"),
    ],
)
def test_what_ends_the_dialogue_before_the_message_has_sent_nothing(
    start: Callable[..., ScriptedDialogue], answers: dict[str, Any], reason: str
) -> None:
    dialogue = start(**answers)
    patience = 0.5 if ... in answers.values() else 20.0

    with pytest.raises(MailServerUnavailable) as caught, dialogue.client(patience).connect(never_stop) as session:
        send(session)

    assert caught.value.reason == reason
    assert b"Hi\r\n" not in dialogue.lines


@pytest.mark.parametrize("answer", [None, ..., "hello", "354 more"])
def test_a_message_without_an_answer_is_unknown(start: Callable[..., ScriptedDialogue], answer: Any) -> None:
    dialogue = start(**{".": answer})
    started = time.monotonic()

    with pytest.raises(AnswerMissing), dialogue.client().connect(never_stop) as session:
        send(session, timeout_seconds=1.0)

    assert time.monotonic() - started < 15


@pytest.mark.parametrize(("answer", "code"), [("451 later", 451), ("554-no\r\n554 spam", 554), ("421 bye", 421)])
def test_a_message_that_is_refused_is_known(start: Callable[..., ScriptedDialogue], answer: str, code: int) -> None:
    with start(**{".": answer}).client().connect(never_stop) as session:
        assert send(session).code == code


def test_a_refusal_of_data_is_given(start: Callable[..., ScriptedDialogue]) -> None:
    with start(DATA="503 no valid recipients").client().connect(never_stop) as session:
        session.start_message("a@example.com", size_bytes=1, smtputf8=False)
        assert session.open_content() == (503, "no valid recipients")


def test_a_command_that_wants_a_login_is_a_refused_login(start: Callable[..., ScriptedDialogue]) -> None:
    with (
        start(MAIL="530 5.7.0 Authentication required").client().connect(never_stop) as session,
        pytest.raises(LoginRefused),
    ):
        session.start_message("a@example.com", size_bytes=1, smtputf8=False)


def test_a_reply_is_one_bounded_line(start: Callable[..., ScriptedDialogue]) -> None:
    with start(RCPT="550-no\t\x07such\r\n550 " + "x" * 1000).client().connect(never_stop) as session:
        session.start_message("a@example.com", size_bytes=1, smtputf8=False)
        reply = session.add_recipient("b@example.com")

    assert reply.text.startswith("no such xxx")
    assert len(reply.text) == 400


def test_a_wait_before_the_message_ends_when_the_attempt_must(start: Callable[..., ScriptedDialogue]) -> None:
    def stop() -> None:
        raise Cancelled

    dialogue = start(**{"": ...})
    started = time.monotonic()

    with pytest.raises(Cancelled), dialogue.client(20).connect(stop):
        pass

    assert time.monotonic() - started < 15


def test_a_server_that_will_not_say_goodbye_holds_nothing_up(start: Callable[..., ScriptedDialogue]) -> None:
    started = time.monotonic()

    with start(QUIT=...).client().connect(never_stop) as session:
        assert send(session).accepts

    # Less than what any other answer is waited for.
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("host", "reason"), [("127.0.0.1", "it refused the connection"), ("mail.invalid", "its name was not found")]
)
def test_a_server_that_is_not_there_is_named_so(host: str, reason: str) -> None:
    with pytest.raises(MailServerUnavailable) as caught, SmtpServer(SmtpAddress(host, 1)).connect(never_stop):
        pass

    assert caught.value.reason == reason


class Keeper:
    def __init__(self) -> None:
        self.kept: list[Envelope] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        self.kept.append(envelope)
        return "250 OK"


@pytest.fixture
def start_secure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Keeper, int]]]:
    """Start aiosmtpd with a certificate of ours, and give its handler and port. It knows `user` by the password `p@ss`."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    controllers: list[Controller] = []

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"user", b"p@ss"), handled=False)

    def start_one(*, tls: str, **more: Any) -> tuple[Keeper, int]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
        keeper = Keeper()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        security = {"ssl_context": context} if tls == "at once" else {"tls_context": context} if tls else {}
        controller = Controller(
            keeper,
            hostname="127.0.0.1",
            port=port,
            ready_timeout=PATIENCE_SECONDS,
            authenticator=authenticate,
            **security,
            **more,
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
def test_messages_go_over_every_kind_of_connection(
    start_secure: Callable[..., tuple[Keeper, int]], tls: str, url: str, auth: bool
) -> None:
    keeper, port = start_secure(tls=tls, auth_required=auth, auth_require_tls=tls == "starttls")

    with SmtpServer(parse_smtp_url(url.format(port=port))).connect(never_stop) as session:
        assert send(session).accepts

    assert len(keeper.kept) == 1


@pytest.mark.parametrize("login", ["user:wrong@", "someone:p%40ss@"])
def test_wrong_credentials_are_a_refused_login(start_secure: Callable[..., tuple[Keeper, int]], login: str) -> None:
    _, port = start_secure(tls="starttls")
    server = SmtpServer(parse_smtp_url(f"smtp://{login}localhost:{port}?starttls=1"))

    with pytest.raises(LoginRefused) as caught, server.connect(never_stop):
        pass

    assert caught.value.code == 535
    assert "wrong" not in str(caught.value)


def test_a_login_that_the_connection_does_not_offer_is_refused(start_secure: Callable[..., tuple[Keeper, int]]) -> None:
    _, port = start_secure(tls="starttls")

    with (
        pytest.raises(LoginRefused),
        SmtpServer(parse_smtp_url(f"smtp://user:p%40ss@localhost:{port}")).connect(never_stop),
    ):
        pass


@pytest.mark.parametrize("url", ["smtps://localhost:{port}", "smtp://localhost:{port}?starttls=1"])
def test_a_certificate_that_nobody_vouches_for_is_refused_unless_told(
    start_secure: Callable[..., tuple[Keeper, int]], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    _, port = start_secure(tls="at once" if url.startswith("smtps") else "starttls")
    monkeypatch.delenv("SSL_CERT_FILE")
    url = url.format(port=port)

    with pytest.raises(MailServerUnavailable) as caught, SmtpServer(parse_smtp_url(url)).connect(never_stop):
        pass
    trusting = url + ("&" if "?" in url else "?") + "verify=0"
    with SmtpServer(parse_smtp_url(trusting)).connect(never_stop) as session:
        assert send(session).accepts

    assert caught.value.reason == "its certificate cannot be trusted"


def test_starttls_that_is_asked_for_is_never_done_without(start: Callable[..., ScriptedDialogue]) -> None:
    dialogue = start()
    port = dialogue._listener.getsockname()[1]

    server = SmtpServer(parse_smtp_url(f"smtp://127.0.0.1:{port}?starttls=1"))
    with pytest.raises(MailServerUnavailable) as caught, server.connect(never_stop):
        pass

    assert caught.value.reason == "it does not offer STARTTLS"
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
def test_a_url_says_where_and_how(url: str, address: SmtpAddress) -> None:
    assert parse_smtp_url(url) == address


@pytest.mark.parametrize(
    "url", ["", "mail:25", "http://mail", "smtp://", "smtp://m:x", "smtp://m?tls=1", "smtp://m?verify=2", "smtp://m/x"]
)
def test_a_url_that_makes_no_sense_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError, match="TASKMILL_SMTP_URL"):
        parse_smtp_url(url.replace("//m", "//u:secret@m"))


def test_a_password_is_in_no_representation() -> None:
    assert "secret" not in repr(parse_smtp_url("smtp://u:secret@mail"))
