"""The in-memory twin of a mail server: it answers as it was told to, and keeps what it accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.adapters.smtp import AnswerMissing, MailServerUnavailable, MailSession, Reply

_OK = Reply(250, "OK")


class KeptMessage(NamedTuple):
    """A message that the server answered with a 2xx."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass
class MemorySmtp:
    """Fulfils `MailServer` without a socket. Its fields may be changed between two sessions."""

    connection: MailServerUnavailable | None = None
    """What connecting ends in, if not in a session."""
    sender: Reply | MailServerUnavailable = _OK
    recipients: Mapping[str, Reply | MailServerUnavailable] = field(default_factory=dict)
    """What RCPT TO is answered with, by address; a 250 for any other."""
    data: Reply | MailServerUnavailable | None = None
    content: Reply | AnswerMissing = _OK
    offers_smtputf8: bool = True
    before_answer: Callable[[], None] = lambda: None
    """Called when the message has come and before it is answered: the place to stage a crash."""

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
    """One session with the twin."""

    def __init__(self, server: MemorySmtp, check: Callable[[], None]) -> None:
        self._server = server
        self._check = check
        self._sender = ""
        self._recipients: list[str] = []
        self.offers_smtputf8 = server.offers_smtputf8

    def start_message(self, sender: str, *, size_bytes: int, smtputf8: bool) -> Reply:
        self._check()
        self._sender = sender
        return _say(self._server.sender)

    def add_recipient(self, address: str) -> Reply:
        self._check()
        reply = _say(self._server.recipients.get(address, _OK))
        if reply.accepts:
            self._recipients.append(address)
        return reply

    def open_content(self) -> Reply | None:
        self._check()
        return None if self._server.data is None else _say(self._server.data)

    def send_content(self, content: bytes, *, timeout_seconds: float) -> Reply:
        self._server.before_answer()
        if isinstance(self._server.content, AnswerMissing):
            raise self._server.content
        if self._server.content.accepts:
            self._server.kept.append(KeptMessage(self._sender, tuple(self._recipients), content))
        return self._server.content


def _say(answer: Reply | MailServerUnavailable) -> Reply:
    if isinstance(answer, MailServerUnavailable):
        raise answer
    return answer
