"""`maintenance.drop_expired_sign_ins`: what expired is deleted, what is valid stays, and an old signing key is replaced."""

from __future__ import annotations

from uuid import uuid4

from shared.people.signing_keys import new_signing_key
from shared.settings import Settings
from shared.stored_secrets import SecretCipher
from tests.workers.conftest import Tasks
from tests.workers.handlers.maintenance.conftest import Chores


def test_expired_rows_are_deleted_and_valid_ones_stay(chores: Chores, tasks: Tasks) -> None:
    person, organization = uuid4(), uuid4()
    run = tasks.connection.execute
    run("INSERT INTO organizations (id, name) VALUES (%s, 'a')", [organization])
    run("INSERT INTO people (id, email, email_key) VALUES (%s, 'a@example.com', 'a@example.com')", [person])
    for days in (-1, 5, 40):
        age = f"{days} days"
        session = uuid4()
        run(
            "INSERT INTO sessions (id, person_id, organization_id, method, expires_at)"
            " VALUES (%s, %s, %s, 'password', now() - %s::interval)",
            [session, person, organization, age],
        )
        run("INSERT INTO refresh_tokens (sha256, session_id) VALUES (sha256(%s::bytea), %s)", [session.bytes, session])
        run(
            "INSERT INTO person_tokens (sha256, purpose, person_id, expires_at)"
            " VALUES (sha256(%s::bytea), 'reset', %s, now() - %s::interval)",
            [session.bytes, person, age],
        )
        run(
            "INSERT INTO invitations (id, email, email_key, organization_id, role, expires_at)"
            " VALUES (%s, 'b@example.com', 'b@example.com', %s, 'client', now() - %s::interval)",
            [session, organization, age],
        )
        run(
            "INSERT INTO sign_in_attempts (subject, attempts, since) VALUES (%s, 1, now() - %s::interval)",
            [session.bytes, age],
        )

    done = chores.do("maintenance.drop_expired_sign_ins")

    assert done == {"sessions": 1, "tokens": 2, "invitations": 1, "attempts": 2, "has_new_signing_key": False}
    assert (chores.count("sessions"), chores.count("refresh_tokens"), chores.count("person_tokens")) == (2, 2, 1)


def test_a_signing_key_that_is_old_is_replaced_and_accepted_for_a_while(
    chores: Chores, tasks: Tasks, settings: Settings
) -> None:
    old = new_signing_key(SecretCipher(settings))
    tasks.connection.execute(
        "INSERT INTO signing_keys (id, public_key, private_key, created_at) VALUES (%s, %s, %s, now() - interval '91 days')",
        [old.id, old.public_key, old.private_key],
    )

    assert chores.do("maintenance.drop_expired_sign_ins")["has_new_signing_key"]
    assert not chores.do("maintenance.drop_expired_sign_ins")["has_new_signing_key"]

    rows = tasks.connection.execute("SELECT id, retires_at > now() FROM signing_keys ORDER BY created_at").fetchall()
    assert rows[0] == (old.id, True)
    assert rows[1][1] is None
