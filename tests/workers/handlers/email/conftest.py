"""A real Postgres for intents and receipts, and a real SMTP server with scripted replies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy import Engine, create_engine, text

from cli.local_stack.postgres import PostgresServer
from shared.settings import Settings
from shared.tables.base import metadata
from shared.tables.emails import email_intents, email_receipts
from tests.conftest import PATIENCE_SECONDS
from workers.adapters.memory_context import MemoryContext
from workers.adapters.smtp import SmtpServer, parse_smtp_url


@pytest.fixture(scope="session")
def email_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with PostgresServer(tmp_path_factory.mktemp("postgres"), fast=True) as server:
        engine = create_engine(server.url.replace("postgresql://", "postgresql+psycopg://", 1))
        metadata.create_all(engine, tables=[email_intents, email_receipts])
        yield engine
        engine.dispose()


@pytest.fixture
def engine(email_engine: Engine) -> Engine:
    with email_engine.begin() as connection:
        connection.execute(text("TRUNCATE email_intents, email_receipts"))
    return email_engine


class MakeContext(Protocol):
    """The fixture `make_context`."""

    def __call__(
        self,
        attempt: int = 1,
        task_id: UUID | None = None,
        max_attempts: int = 8,
        timeout_seconds: float = 60.0,
    ) -> MemoryContext:
        """Return the context of an attempt, of a new task by default."""


@pytest.fixture
def make_context(engine: Engine, tmp_path: Path) -> MakeContext:
    def make(
        attempt: int = 1, task_id: UUID | None = None, max_attempts: int = 8, timeout_seconds: float = 60.0
    ) -> MemoryContext:
        return MemoryContext(
            tmp_path / uuid4().hex,
            task_id=task_id or uuid4(),
            attempt=attempt,
            max_attempts=max_attempts,
            engine=engine,
            settings=Settings(mail_from="Taskmill <taskmill@localhost>"),
            timeout_seconds=timeout_seconds,
        )

    return make


@dataclass
class ScriptedHandler:
    """A handler of aiosmtpd that replies as its fields say, and keeps the messages that it accepted."""

    sender: str = "250 OK"
    recipients: dict[str, str] = field(default_factory=dict)
    content: str = "250 Taken"
    hang_up_on: str = ""
    """RCPT: close the connection instead of a reply to RCPT. CONTENT: instead of the reply to the message."""
    stall_on: str = ""
    """The same, but stay silent."""
    on_content: Callable[[], None] = lambda: None
    kept: list[Envelope] = field(default_factory=list)
    greetings: int = 0
    asked_for: list[str] = field(default_factory=list)

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.greetings += 1
        session.host_name = hostname
        return responses

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.sender.startswith("250"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return self.sender

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.asked_for.append(address)
        await self._misbehave("RCPT", server)
        reply = self.recipients.get(address, "250 OK")
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.on_content()
        if self.content.startswith("250"):
            self.kept.append(envelope)
        await self._misbehave("CONTENT", server)
        return self.content

    async def _misbehave(self, step: str, server: SMTP) -> None:
        if self.hang_up_on == step:
            assert server.transport is not None
            server.transport.abort()
        if self.stall_on == step:
            await asyncio.sleep(30)


class ScriptedSmtp:
    """aiosmtpd with a `ScriptedHandler`, on a free port of the loopback interface."""

    def __init__(self, *, offers_smtputf8: bool) -> None:
        self.handler = ScriptedHandler()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._controller = Controller(
            self.handler,
            hostname="127.0.0.1",
            port=self.port,
            ready_timeout=PATIENCE_SECONDS,
            enable_SMTPUTF8=offers_smtputf8,
        )
        self._controller.start()

    def client(self, reply_timeout_seconds: float = 20.0) -> SmtpServer:
        address = parse_smtp_url(f"smtp://127.0.0.1:{self.port}")
        return SmtpServer(address, reply_timeout_seconds=reply_timeout_seconds)

    def stop(self) -> None:
        self._controller.stop(no_assert=True)


@pytest.fixture
def smtp() -> Iterator[ScriptedSmtp]:
    server = ScriptedSmtp(offers_smtputf8=True)
    yield server
    server.stop()


@pytest.fixture
def plain_smtp() -> Iterator[ScriptedSmtp]:
    """Start a server that does not offer SMTPUTF8."""
    server = ScriptedSmtp(offers_smtputf8=False)
    yield server
    server.stop()
