"""`taskmill users`: people who are created by command can sign in, and wrong input is refused with a reason."""

from __future__ import annotations

import json

import psycopg
import pytest
from typer.testing import CliRunner

from cli.main import app
from shared.people.creation import has_person
from shared.settings import Settings


@pytest.fixture
def runner(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("TASKMILL_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("TASKMILL_PASSWORD_MEMORY_KIB", "8")
    monkeypatch.setenv("TASKMILL_PASSWORD_TIME_COST", "1")
    return CliRunner()


def test_an_admin_is_created_with_a_password_that_is_shown_once(runner: CliRunner, settings: Settings) -> None:
    created = runner.invoke(app, ["users", "create", "Ada@Example.com", "--admin", "--organization", "acme", "--json"])

    assert created.exit_code == 0, created.output
    assert len(json.loads(created.stdout)["password"]) >= 24
    [listed] = json.loads(runner.invoke(app, ["users", "list", "--json"]).stdout)
    assert (listed["email"], listed["platform_role"], listed["state"]) == ("Ada@example.com", "admin", "enabled")
    assert has_person(settings, "ada@example.com")
    with psycopg.connect(settings.database_url) as connection:
        roles = connection.execute("SELECT role FROM memberships").fetchall()
        actors = connection.execute("SELECT actor_type, action FROM audit_entries").fetchall()
    assert roles == [("admin",)]
    assert actors == [("command", "person.registered")]


def test_wrong_input_is_refused_with_a_reason(runner: CliRunner) -> None:
    assert runner.invoke(app, ["users", "create", "ada@example.com"]).exit_code == 0

    for arguments, text, words in (
        (["create", "ADA@example.com"], "", "has an account already"),
        (["create", "ada"], "", "not an email address"),
        (["create", "bob@example.com", "--password-stdin"], "short\n", "12 to 200"),
        (["set-password", "nobody@example.com"], "", "has no account"),
        (["set-password", "ada@example.com", "--password-stdin"], "Password1234\n", "common"),
    ):
        refused = runner.invoke(app, ["users", *arguments], input=text)
        assert refused.exit_code == 2
        assert words in " ".join(refused.output.replace("│", " ").split())


def test_a_lost_second_factor_is_removed_by_command(runner: CliRunner, settings: Settings) -> None:
    runner.invoke(app, ["users", "create", "ada@example.com"])
    with psycopg.connect(settings.database_url) as connection:
        connection.execute(
            "INSERT INTO second_factors (person_id, secret, confirmed_at) SELECT id, 'x', now() FROM people"
        )
        connection.execute("INSERT INTO recovery_codes (person_id, sha256) SELECT id, sha256('code') FROM people")

    first, second = (runner.invoke(app, ["users", "remove-second-factor", "ada@example.com"]) for _ in range(2))

    assert (first.exit_code, second.exit_code) == (0, 2)
    assert "has no second factor" in second.output
    with psycopg.connect(settings.database_url) as connection:
        left = connection.execute("SELECT (SELECT count(*) FROM second_factors), (SELECT count(*) FROM recovery_codes)")
        assert left.fetchone() == (0, 0)
        actions = connection.execute(
            "SELECT action FROM audit_entries WHERE actor_type = 'command' ORDER BY id"
        ).fetchall()
    assert actions[-1] == ("person.second_factor_disabled",)


def test_a_new_password_and_a_new_signing_key_are_made_by_command(runner: CliRunner, settings: Settings) -> None:
    runner.invoke(app, ["users", "create", "ada@example.com"])
    with psycopg.connect(settings.database_url) as connection:
        connection.execute(
            "INSERT INTO person_tokens (sha256, person_id, purpose, expires_at)"
            " SELECT sha256(purpose::bytea), id, purpose, now() + interval '1 hour'"
            " FROM people, unnest(ARRAY['reset', 'challenge', 'verify']) AS purpose"
        )

    assert runner.invoke(app, ["users", "set-password", "ada@example.com"]).exit_code == 0
    with psycopg.connect(settings.database_url) as connection:
        left = connection.execute("SELECT purpose FROM person_tokens").fetchall()
    assert left == [("verify",)], "the emails that were sent before the new password no longer replace it"
    assert [runner.invoke(app, ["users", "rotate-signing-key"]).exit_code for _ in range(2)] == [0, 0]
    with psycopg.connect(settings.database_url) as connection:
        keys = connection.execute("SELECT count(*), count(retires_at) FROM signing_keys").fetchone()
    assert keys == (2, 1)
