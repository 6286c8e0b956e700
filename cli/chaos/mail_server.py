"""A mail server that counts the accepted messages of each recipient, and misbehaves on request."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from cli.local_stack.free_ports import choose_port


class MailServer:
    """Runs in a thread of its own between `start` and `stop`."""

    def __init__(self) -> None:
        self.port = choose_port()
        self.accepted: Counter[str] = Counter()
        """How many messages were accepted for each recipient."""
        self.messages_to_defer = 0
        """How many of the next messages are answered with 421."""
        self.messages_to_drop = 0
        """How many of the next messages are accepted, and their connection closed without an answer."""
        self.answering = threading.Event()
        """No message is answered while it is not set."""
        self.answering.set()
        self._lock = threading.Lock()
        self._controller: Controller | None = None

    @property
    def url(self) -> str:
        """The value for `TASKMILL_SMTP_URL`."""
        return f"smtp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start to listen."""
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def stop(self) -> None:
        """Stop, without waiting for connections."""
        self.answering.set()
        if self._controller is not None:
            self._controller.stop(no_assert=True)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Return the reply to a message; aiosmtpd calls it."""
        while not self.answering.is_set():  # noqa: ASYNC110 - another thread sets the event.
            await asyncio.sleep(0.05)
        if self.messages_to_defer:
            self.messages_to_defer -= 1
            return "421 4.3.2 Try again later"
        with self._lock:
            self.accepted.update(envelope.rcpt_tos)
        if self.messages_to_drop:
            self.messages_to_drop -= 1
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        return "250 2.0.0 Accepted"
