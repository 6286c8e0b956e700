"""What the tests of faults share: parts as processes, a mail server whose replies the test chooses, and the check that each
test makes after its fault.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx2
import psycopg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from pydantic import JsonValue

from cli.local_stack.free_ports import choose_port
from shared.api_keys import create_key
from shared.settings import Settings
from shared.verification import verify
from tests.conftest import PATIENCE_SECONDS, Api, Parts, wait_until_true
from tests.forked_parts import Part

ROOT = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 15.0
"""The default, long enough that a machine which does nothing for a second loses no lease. A file whose tests wait until a lease
is over sets a shorter `LEASE_SECONDS` of its own.
"""
LONG = os.environ.get("TEST_LONG_FAULTS") == "1"
"""Whether faults last for a minute or five, as real ones do, instead of seconds."""
T = TypeVar("T")
DONE = {"succeeded", "failed", "cancelled", "expired"}


@dataclass
class MailHandler:
    """Answers each DATA with the next of `answers`, or with 250 when there are none, and keeps the accepted messages."""

    answers: list[str] = field(default_factory=list)
    kept: list[Envelope] = field(default_factory=list)
    hang_up_after_content: int = 0
    """For how many more messages the connection is broken without a reply, although they are kept."""
    goes_on: threading.Event = field(default_factory=threading.Event)
    """No message gets a reply until this is set."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        await asyncio.to_thread(self.goes_on.wait, 900)
        answer = self.answers.pop(0) if self.answers else "250 Taken"
        if self.hang_up_after_content:
            self.hang_up_after_content -= 1
            assert server.transport is not None
            server.transport.abort()
        if answer.startswith("250"):
            self.kept.append(envelope)
        return answer


class MailServer:
    def __init__(self) -> None:
        self.handler = MailHandler()
        self.handler.goes_on.set()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._controller = Controller(
            self.handler, hostname="127.0.0.1", port=self.port, ready_timeout=PATIENCE_SECONDS
        )
        self._controller.start()

    @property
    def recipients(self) -> list[str]:
        """Return the recipients of the accepted messages, each as often as it was sent one."""
        return sorted(address for envelope in self.handler.kept for address in envelope.rcpt_tos)

    def stop(self) -> None:
        self.handler.goes_on.set()
        self._controller.stop(no_assert=True)


@pytest.fixture
def mail() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """The settings of the test, with the lease that its file names, and in the environment that allows kill points."""
    lease = getattr(request.module, "LEASE_SECONDS", LEASE_SECONDS)
    return settings.model_copy(update={"environment": "development", "lease_seconds": lease, "rering_seconds": 1.0})


class Health:
    """Requests `/health` repeatedly in a thread, and keeps how long the responses took and which failed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.seconds: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Health:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=PATIENCE_SECONDS)

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=20) as client:
            while not self._over.wait(0.1):
                began = time.monotonic()
                try:
                    status = client.get("/health").status_code
                except httpx2.HTTPError as error:
                    self.failures.append(type(error).__name__)
                else:
                    if status != 200:
                        self.failures.append(str(status))
                self.seconds.append(time.monotonic() - began)


class Room:
    """The processes that a fault hits, the tasks that were accepted, and the check that every guarantee holds for them."""

    def __init__(self, parts: Parts, settings: Settings, environment: dict[str, str]) -> None:
        self.parts = parts
        self.settings = settings
        self.accepted: list[str] = []
        self._environment = environment
        self._clients: list[httpx2.Client] = []

    def start(self, *arguments: str, kill: str | None = None, **environment: str) -> Part:
        """Start a part, which is killed at the kill point if one is named."""
        extra = {"TASKMILL_KILL_POINT": kill} if kill else {}
        process: Part = self.parts.start(*arguments, environment={**self._environment, **environment, **extra})
        return process

    def relay(self, kill: str | None = None) -> Part:
        return self.start("relay", kill=kill)

    def worker(
        self, kill: str | None = None, queues: str = "files,reports,email", concurrency: int = 2, **environment: str
    ) -> Part:
        arguments = ("worker", "--queues", queues, "--concurrency", str(concurrency))
        return self.start(*arguments, kill=kill, **environment)

    def api(self, kill: str | None = None, **environment: str) -> tuple[Part, httpx2.Client]:
        """Start an API in a process of its own and return it with a client, once it answers."""
        port = choose_port(None)
        process = self.start("api", "--port", str(port), kill=kill, **environment)
        client = self.client(f"http://127.0.0.1:{port}")
        self.eventually(lambda: self.answers(client))
        return process, client

    def client(self, url: str) -> httpx2.Client:
        key = create_key(self.settings, "operator", "operator").key
        client = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_SECONDS)
        self._clients.append(client)
        return client

    @staticmethod
    def answers(client: httpx2.Client) -> bool:
        try:
            return client.get("/health").status_code == 200
        except httpx2.HTTPError:
            return False

    def submit(self, client: httpx2.Client, kind: str = "platform.ping", **more: JsonValue) -> str:
        """Submit one task and return its id."""
        answer = client.post("/tasks", json={"kind": kind, "params": {}, **more})
        assert answer.status_code == 202, answer.text
        return self.note(answer.json()["id"])

    def submit_many(self, client: httpx2.Client, count: int, **params: JsonValue) -> list[str]:
        """Submit pings in one batch and return their ids."""
        tasks = [{"kind": "platform.ping", "params": params}] * count
        answer = client.post("/tasks/batch", json={"tasks": tasks})
        assert answer.status_code == 202, answer.text
        return [self.note(task["id"]) for task in answer.json()["tasks"]]

    def email(self, client: httpx2.Client, to: str = "a@example.com", **options: JsonValue) -> str:
        """Submit an email and return the id of its task."""
        answer = client.post("/emails", json={"to": [to], "subject": "S", "text": "T", **options})
        assert answer.status_code == 202, answer.text
        return self.note(answer.json()["id"])

    def note(self, task_id: str) -> str:
        self.accepted.append(task_id)
        return task_id

    def ask(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement and return its rows."""
        with psycopg.connect(self.settings.database_url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def statuses(self) -> dict[str, str]:
        """Return the status of each accepted task, by its id; nothing while the database is away."""
        with suppress(psycopg.OperationalError):
            rows = self.ask("SELECT id::text, status FROM tasks WHERE id = ANY(%s::uuid[])", (self.accepted,))
            return dict(rows)
        return {}

    def error_type(self, task_id: str) -> str | None:
        """Return the type of a task's error."""
        ((error,),) = self.ask("SELECT error->>'type' FROM task_payloads WHERE task_id = %s", (task_id,))
        return error

    def attempts(self, task_id: str) -> int:
        """Return how many attempts a task has had. A claim that a busy worker requeues without a start is none."""
        ((count,),) = self.ask("SELECT attempt FROM tasks WHERE id = %s", (task_id,))
        return int(count)

    def wait_for(self, task_id: str, *statuses: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a task is in one of the states."""
        self.eventually(lambda: self.statuses().get(task_id) in statuses, seconds)

    def wait_until_lost(self, task_id: str) -> None:
        """Wait until the sweeper has swept an attempt of the task."""
        lost = "SELECT 1 FROM task_events WHERE task_id = %s AND data->>'reason' = 'worker-lost'"
        self.eventually(lambda: self.ask(lost, (task_id,)))

    def settle(self, seconds: float = PATIENCE_SECONDS) -> dict[str, str]:
        """Wait until each accepted task is done, verify every guarantee, and return the statuses by task id."""
        self.eventually(lambda: self._is_over(), seconds)
        report = verify(self.settings, deep=True)
        assert report.sound, report.describe()
        statuses = self.statuses()
        assert sorted(statuses) == sorted(set(self.accepted)), "a task that was accepted is not there"
        assert len(self.accepted) == len(set(self.accepted))
        assert set(statuses.values()) <= DONE
        scratch = self.settings.scratch_dir
        assert scratch is not None
        left = [path.name for path in scratch.glob("worker-*/*") if path.name != "lock"]
        assert left == [], "an attempt has left its scratch folder"
        if self.settings.storage_url.startswith("file://"):
            incoming = Path(self.settings.storage_url.removeprefix("file://")) / ".incoming"
            self.eventually(lambda: not list(incoming.glob("*")))
        return statuses

    def _is_over(self) -> bool:
        statuses = self.statuses()
        return len(statuses) == len(set(self.accepted)) and set(statuses.values()) <= DONE

    def eventually(self, question: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
        """Call the function until its result is true and return that result. Fail with the logs of the parts otherwise."""
        try:
            return wait_until_true(question, seconds)
        except AssertionError as error:
            pytest.fail(f"{error}: {self.statuses()}\n{self.parts.logs()[-6000:]}")

    def wait_for_death(self, process: Part) -> None:
        """Wait until a process has been killed at its kill point."""
        self.eventually(lambda: process.poll() is not None)
        assert process.returncode == -signal.SIGKILL, self.parts.logs()[-4000:]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        # The test is over, so the parts need not stop gracefully.
        for process in self.parts.processes:
            process.kill()


@pytest.fixture
def room(parts: Parts, settings: Settings, mail: MailServer) -> Iterator[Room]:
    room = Room(parts, settings, {"TASKMILL_SMTP_URL": f"smtp://127.0.0.1:{mail.port}"})
    yield room
    room.close()


@pytest.fixture
def client(api: Api, room: Room) -> httpx2.Client:
    """A client of an API that the fault does not hit."""
    return room.client(api.url)


@pytest.fixture
def health() -> type[Health]:
    return Health


class ChooseDuration(Protocol):
    """The fixture `lasting`."""

    def __call__(self, short: float, long: float) -> float:
        """Return `long` where `TEST_LONG_FAULTS=1` is set, otherwise `short`; both in seconds."""


@pytest.fixture
def lasting() -> ChooseDuration:
    """Chooses how many seconds a fault lasts: more of them where `TEST_LONG_FAULTS=1` is set."""
    return lambda short, long: long if LONG else short
