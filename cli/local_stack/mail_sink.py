"""The local stack's mail server: accepts every message, stores each as one `.eml` file, and shows them on a page.

Run as `python -m cli.local_stack.mail_sink --directory DIR --smtp-port N --page-port N`. No message is delivered anywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from cli.local_stack.mail_page import MailPage

_LARGEST_MESSAGE_BYTES = 64 << 20


class StoringHandler:
    """Stores messages under names that sort by time. Replies 250 only when the message is on disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Store the message and return the reply. As in a real mailbox, it begins with `Return-Path` and `Delivered-To`.

        They show the envelope, which alone names the recipients of a blind copy.
        """
        trace = [f"Return-Path: <{envelope.mail_from or ''}>"]
        trace += [f"Delivered-To: {recipient}" for recipient in envelope.rcpt_tos]
        content = envelope.original_content or b""
        try:
            name = await asyncio.to_thread(self._store, "\r\n".join(trace).encode() + b"\r\n" + content)
        except OSError as error:
            return f"452 4.3.1 The message could not be stored: {error.strerror}"
        return f"250 2.0.0 Stored as {name}"

    def _store(self, message: bytes) -> str:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}.eml"
        draft = self._directory / f".{name}.part"
        try:
            with draft.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(message)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(self._directory / name)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        return name


async def serve(directory: Path, smtp_port: int, page_port: int) -> None:
    """Serve SMTP and the page on the loopback interface until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    handler = StoringHandler(directory)

    def make_session() -> SMTP:
        return SMTP(
            handler,
            data_size_limit=_LARGEST_MESSAGE_BYTES,
            enable_SMTPUTF8=True,
            # Without a name, aiosmtpd asks the resolver for it at every connection.
            hostname=socket.gethostname(),
            ident="Taskmill's mail sink",
            loop=loop,
        )

    page = MailPage(directory, page_port)
    smtp_server = await loop.create_server(make_session, "127.0.0.1", smtp_port)
    page_server = await asyncio.start_server(page.answer, "127.0.0.1", page_port)
    async with smtp_server, page_server:
        await stopping.wait()
        # From Python 3.12 on, the end of the block would wait for connections, which clients may keep open without limit.
        os._exit(0)


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description="Accept every message over SMTP and store it as a file.")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--smtp-port", type=int, required=True)
    parser.add_argument("--page-port", type=int, required=True)
    arguments = parser.parse_args()
    for draft in arguments.directory.glob(".*.part"):
        draft.unlink()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.directory, arguments.smtp_port, arguments.page_port))


if __name__ == "__main__":
    main()
