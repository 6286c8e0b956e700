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


def test_a_new_password_and_a_new_signing_key_are_made_by_command(runner: CliRunner, settings: Settings) -> None:
    runner.invoke(app, ["users", "create", "ada@example.com"])

    assert runner.invoke(app, ["users", "set-password", "ada@example.com"]).exit_code == 0
    assert [runner.invoke(app, ["users", "rotate-signing-key"]).exit_code for _ in range(2)] == [0, 0]
    with psycopg.connect(settings.database_url) as connection:
        keys = connection.execute("SELECT count(*), count(retires_at) FROM signing_keys").fetchone()
    assert keys == (2, 1)
