"""People for tests of the API: creating them, signing them in, and reading the emails that they are sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest

from shared.contracts.email.account import AccountParams
from shared.database.connections import make_engine
from shared.people.creation import create_person
from shared.permissions import OrganizationRole
from shared.settings import Settings
from tests.conftest import Api
from workers.adapters.memory_context import MemoryContext
from workers.adapters.memory_smtp import MemorySmtp
from workers.handlers.email import account

PASSWORD = "seven quiet otters"
CHEAP_HASHES = {"password_time_cost": 1, "password_memory_kib": 8, "password_parallelism": 1}


@dataclass
class Person:
    """A person, and a client with an access token."""

    email: str
    id: str
    organization_id: str
    client: httpx2.Client
    tokens: dict[str, Any]


class People:
    """Creates people in the database of a served API."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self.api = api
        self.settings = settings
        self.nobody = api.client_with(None)

    def email(self) -> str:
        """Return an address that nobody has."""
        return f"{uuid4().hex[:12]}@example.com"

    def create(self, role: OrganizationRole = "client", *, admin: bool = False, organization: str | None = None) -> str:
        """Create a person who has not signed in, and return the address."""
        email = self.email()
        create_person(
            self.settings, email, password=PASSWORD, role=role, organization=organization, is_platform_admin=admin
        )
        return email

    def sign_in(self, email: str, password: str = PASSWORD, **form: str) -> httpx2.Response:
        """Send the password form."""
        data = {"grant_type": "password", "username": email, "password": password, **form}
        return self.nobody.post("/auth/token", data=data)

    def signed_in(
        self, role: OrganizationRole = "client", *, admin: bool = False, organization: str | None = None, **form: str
    ) -> Person:
        """Create a person, and sign in."""
        return self.enter(self.create(role, admin=admin, organization=organization), **form)

    def enter(self, email: str, password: str = PASSWORD, **form: str) -> Person:
        """Sign in a person who exists."""
        answer = self.sign_in(email, password, **form)
        assert answer.status_code == 200, answer.text
        tokens = answer.json()
        client = self.api.client_with(tokens["access_token"])
        me = client.get("/users/me").json()
        return Person(email, me["id"], me["memberships"][0]["organization_id"], client, tokens)


@contextmanager
def open_database(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """Connect to the database of a test."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        yield connection


ReadTokens = Callable[[], list[tuple[str, str]]]
"""Runs the submitted email tasks, and returns the recipient and the text of each email."""


@contextmanager
def open_mailbox(settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadTokens]:
    """Yield a function that sends the emails that were submitted, to a mail server in memory, and returns them."""
    server = MemorySmtp()
    monkeypatch.setattr(account, "make_mail_server", lambda context: server)
    engine = make_engine(settings, "test-mail")

    def deliver() -> list[tuple[str, str]]:
        server.kept.clear()
        with open_database(settings) as connection:
            tasks = connection.execute(
                "UPDATE tasks SET status = 'running', claim = 1, attempt = 1, started_at = now(), "
                "lease_until = now() + interval '1 hour' WHERE kind = 'email.account' AND status = 'queued' "
                "RETURNING id, (SELECT params FROM task_payloads WHERE task_id = id)"
            ).fetchall()
        for task_id, params in sorted(tasks):
            context = MemoryContext(folder / uuid4().hex, task_id=task_id, engine=engine, settings=settings)
            account.handle(AccountParams.model_validate_json(json.dumps(params)), context)
        return [(kept.recipients[0], _text_of(kept.content)) for kept in server.kept]

    deliver()
    yield deliver
    engine.dispose()


def token_in(text: str) -> str:
    """Return the token of an email."""
    found = re.search(r"\btm[ipv]_[A-Za-z0-9_-]{43}", text)
    assert found is not None, text
    return found[0]


def _text_of(content: bytes) -> str:
    message = message_from_bytes(content, policy=default)
    body = message.get_body(("plain",))
    assert body is not None
    return str(body.get_content())
