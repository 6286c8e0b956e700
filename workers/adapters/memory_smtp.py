"""The in-memory twin of a mail server: it replies as its fields say, and keeps the messages that it accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.adapters.smtp import AnswerMissing, MailServerUnavailable, MailSession, Reply

_OK = Reply(250, "OK")


class KeptMessage(NamedTuple):
    """A message to which the server replied with a 2xx."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass
class MemorySmtp:
    """Implements `MailServer` without a socket. Its fields may be changed between two sessions."""

    connection: MailServerUnavailable | None = None
    """Raised by `connect`, if given."""
    sender: Reply | MailServerUnavailable = _OK
    """The reply to MAIL FROM."""
    recipients: Mapping[str, Reply | MailServerUnavailable] = field(default_factory=dict)
    """The reply to RCPT TO, by address; 250 for every other address."""
    data: Reply | MailServerUnavailable | None = None
    """The reply to DATA, if it is not the 354 that asks for the message."""
    content: Reply | AnswerMissing = _OK
    """The reply to the message."""
    offers_8bitmime: bool = True
    offers_smtputf8: bool = True
    before_recipient: Callable[[], None] = lambda: None
    """Called before each reply to RCPT TO."""
    before_answer: Callable[[], None] = lambda: None
    """Called when the message was received, before the reply to it: a test can make the attempt crash here."""

    def __post_init__(self) -> None:
        self.kept: list[KeptMessage] = []
        self.connections = 0

    @contextmanager
    def connect(self, check: Callable[[], None]) -> Iterator[MailSession]:
        check()
        self.connections += 1
        if self.connection is not None:
            raise self.connection
        yield _MemorySession(self, check)


class _MemorySession:
    """A `MailSession` with the twin."""

    def __init__(self, server: MemorySmtp, check: Callable[[], None]) -> None:
        self._server = server
        self._check = check
        self._sender = ""
        self._recipients: list[str] = []
        self.offers_8bitmime = server.offers_8bitmime
        self.offers_smtputf8 = server.offers_smtputf8

    def start_message(self, sender: str, *, size_bytes: int, eight_bit: bool, smtputf8: bool) -> Reply:
        self._check()
        self._sender = sender
        return _reply_or_raise(self._server.sender)

    def add_recipient(self, address: str) -> Reply:
        self._check()
        self._server.before_recipient()
        reply = _reply_or_raise(self._server.recipients.get(address, _OK))
        if reply.accepts:
            self._recipients.append(address)
        return reply

    def open_content(self) -> Reply | None:
        self._check()
        return None if self._server.data is None else _reply_or_raise(self._server.data)

    def send_content(self, content: bytes, *, timeout_seconds: float) -> Reply:
        self._server.before_answer()
        if isinstance(self._server.content, AnswerMissing):
            raise self._server.content
        if self._server.content.accepts:
            self._server.kept.append(KeptMessage(self._sender, tuple(self._recipients), content))
        return self._server.content


def _reply_or_raise(answer: Reply | MailServerUnavailable) -> Reply:
    if isinstance(answer, MailServerUnavailable):
        raise answer
    return answer
