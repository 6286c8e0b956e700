"""`email.account`: the messages to people about their accounts, and the tokens that only their digests are stored of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from shared.contracts.email.account import AccountParams
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.people.creation import CreatedPerson, create_person
from shared.people.one_use_tokens import token_digest
from shared.queries import people as queries
from shared.settings import Settings
from workers.adapters.memory_context import MemoryContext
from workers.adapters.memory_smtp import MemorySmtp
from workers.handlers.email import account
from workers.outcomes import Failed, Stopped


class Sender:
    """Runs attempts against a mail server in memory."""

    def __init__(self, settings: Settings, folder: Path, engine: Engine) -> None:
        self.engine = engine
        self.server = MemorySmtp()
        self._settings = settings
        self._folder = folder

    def send(self, params: AccountParams, task_id: UUID | None = None) -> bool:
        """Run an attempt, and return whether it sent a message."""
        folder = self._folder / uuid4().hex
        context = MemoryContext(folder, task_id=task_id, engine=self.engine, settings=self._settings)
        return account.handle(params, context).sent

    def read_token(self) -> str:
        """Return the token of the last message."""
        found = re.search(rb"\btm[ipv]_[A-Za-z0-9_-]{43}", self.server.kept[-1].content)
        assert found is not None
        return found[0].decode()


@pytest.fixture
def sender(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    engine = make_engine(settings, "test")
    made = Sender(settings, tmp_path, engine)
    monkeypatch.setattr(account, "make_mail_server", lambda context: made.server)
    yield made
    engine.dispose()


@pytest.fixture
def ada(settings: Settings) -> CreatedPerson:
    cheap = settings.model_copy(update={"password_time_cost": 1, "password_memory_kib": 8})
    return create_person(cheap, "Ada@Example.com", password="seven quiet otters")


def test_only_the_last_token_for_a_new_password_is_valid(sender: Sender, ada: CreatedPerson) -> None:
    params = AccountParams(message="reset", email_key="ada@example.com")
    assert sender.send(params)
    first = token_digest("reset", sender.read_token())
    assert sender.send(params)
    second = token_digest("reset", sender.read_token())

    assert first is not None
    assert second is not None
    with sender.engine.begin() as connection:
        assert connection.execute(queries.use_person_token(first, "reset")).first() is None
        assert connection.execute(queries.use_person_token(second, "verify")).first() is None
        used = connection.execute(queries.use_person_token(second, "reset")).one()
        assert connection.execute(queries.use_person_token(second, "reset")).first() is None
    assert used.person_id == ada.id
    assert {kept.recipients for kept in sender.server.kept} == {("Ada@example.com",)}


@pytest.mark.parametrize("message", ["reset", "verify", "password_changed"])
def test_nothing_is_sent_to_an_address_without_an_account(sender: Sender, message: str) -> None:
    params = AccountParams.model_validate({"message": message, "email_key": "nobody@example.com"})

    assert not sender.send(params)
    assert sender.server.kept == []


def test_nothing_is_sent_to_a_disabled_person(sender: Sender, ada: CreatedPerson) -> None:
    with sender.engine.begin() as connection:
        connection.execute(queries.disable_person(ada.id, is_disabled=True))

    assert not sender.send(AccountParams(message="reset", email_key="ada@example.com"))


def test_a_person_whose_address_is_verified_gets_no_token_to_verify_it(sender: Sender, ada: CreatedPerson) -> None:
    assert sender.send(AccountParams(message="verify", email_key="ada@example.com"))

    assert b"tmv_" not in sender.server.kept[0].content


def test_an_invitation_can_be_accepted_with_the_token_of_the_last_email(sender: Sender, ada: CreatedPerson) -> None:
    values = {"id": new_id(), "email": "bob@example.com", "email_key": "bob@example.com", "role": "viewer"}
    with sender.engine.begin() as connection:
        row = connection.execute(queries.insert_invitation({**values, "organization_id": ada.organization_id}, 7)).one()
    params = AccountParams(message="invitation", invitation_id=row.id)

    assert sender.send(params)

    digest = token_digest("invitation", sender.read_token())
    assert digest is not None
    with sender.engine.begin() as connection:
        assert connection.execute(queries.lock_invitation(digest)).one().id == row.id
        connection.execute(queries.delete_invitation(row.id, None))
    assert not sender.send(params)


def test_an_attempt_after_the_message_was_sent_leaves_its_token_valid(sender: Sender, ada: CreatedPerson) -> None:
    params, task_id = AccountParams(message="reset", email_key="ada@example.com"), uuid4()
    assert sender.send(params, task_id)
    digest = token_digest("reset", sender.read_token())

    assert sender.send(params, task_id)

    assert digest is not None
    assert len(sender.server.kept) == 1
    with sender.engine.begin() as connection:
        assert connection.execute(queries.use_person_token(digest, "reset")).first() is not None


def test_an_attempt_that_does_not_know_whether_the_message_was_sent_sends_nothing(
    sender: Sender, ada: CreatedPerson
) -> None:
    def crash() -> None:
        raise Stopped

    params, task_id = AccountParams(message="reset", email_key="ada@example.com"), uuid4()
    sender.server.before_answer = crash
    with pytest.raises(Stopped):
        sender.send(params, task_id)

    with pytest.raises(Failed) as failed:
        sender.send(params, task_id)

    assert failed.value.type == "/problems/delivery-unknown"
