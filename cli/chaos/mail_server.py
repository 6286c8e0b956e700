"""A mail server that counts whom it took a message for, and misbehaves when told to."""

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
        self.taken: Counter[str] = Counter()
        """How many messages were taken for each recipient."""
        self.put_off = 0
        """How many more messages are answered 421."""
        self.drop = 0
        """How many more messages are taken, and their connection broken without an answer."""
        self.answers = threading.Event()
        """While it is not set, no message is answered."""
        self.answers.set()
        self._lock = threading.Lock()
        self._controller: Controller | None = None

    @property
    def url(self) -> str:
        """As `TASKMILL_SMTP_URL` has it."""
        return f"smtp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen."""
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def stop(self) -> None:
        """Stop."""
        self.answers.set()
        if self._controller is not None:
            self._controller.stop(no_assert=True)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Answer a message, as aiosmtpd asks."""
        while not self.answers.is_set():  # noqa: ASYNC110 - what is waited for is set in another thread.
            await asyncio.sleep(0.05)
        if self.put_off:
            self.put_off -= 1
            return "421 4.3.2 Later"
        with self._lock:
            self.taken.update(envelope.rcpt_tos)
        if self.drop:
            self.drop -= 1
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        return "250 2.0.0 Taken"
