"""The local stack's mail server: takes every message, keeps each as one `.eml` file, and shows them on a page.

Run as `python -m cli.local_stack.mail_sink --directory DIR --smtp-port N --page-port N`. Nothing is sent on.
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


class KeepingHandler:
    """Answers 250 only once the message is on disk, under a name by which the messages sort by time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the message. `Return-Path` and `Delivered-To` are put before it, as a real mailbox has them.

        They show the envelope, which alone tells who got a blind copy.
        """
        trace = [f"Return-Path: <{envelope.mail_from or ''}>"]
        trace += [f"Delivered-To: {recipient}" for recipient in envelope.rcpt_tos]
        content = envelope.original_content or b""
        try:
            name = await asyncio.to_thread(self._keep, "\r\n".join(trace).encode() + b"\r\n" + content)
        except OSError as error:
            return f"452 4.3.1 The message could not be kept: {error.strerror}"
        return f"250 2.0.0 Kept as {name}"

    def _keep(self, message: bytes) -> str:
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
    """Serve both on loopback until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    handler = KeepingHandler(directory)

    def make_session() -> SMTP:
        return SMTP(
            handler,
            data_size_limit=_LARGEST_MESSAGE_BYTES,
            enable_SMTPUTF8=True,
            # Given, as aiosmtpd would otherwise ask the resolver for it at every connection.
            hostname=socket.gethostname(),
            ident="Taskmill's mail sink",
            loop=loop,
        )

    page = MailPage(directory, page_port)
    smtp_server = await loop.create_server(make_session, "127.0.0.1", smtp_port)
    page_server = await asyncio.start_server(page.answer, "127.0.0.1", page_port)
    async with smtp_server, page_server:
        await stopping.wait()
        # Leaving the block waits, from Python 3.12 on, for connections that clients keep open for as long as they like.
        os._exit(0)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="Keep every message as a file.")
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
