"""`taskmill limits` shows and sets limits, and audits the change."""

from __future__ import annotations

import json

import psycopg
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from shared.api_keys import create_key
from shared.settings import Settings


@pytest.fixture
def organization(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an organization with one caller of the same name."""
    monkeypatch.setenv("TASKMILL_DATABASE_URL", settings.database_url)
    create_key(settings, "acme")
    return "acme"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["limits", *arguments])


def test_limits_of_an_organization_and_a_caller_are_set_shown_and_audited(
    settings: Settings, organization: str
) -> None:
    assert run("set", organization, '{"tasks_per_day": 5, "senders": ["@example.com"]}').exit_code == 0
    assert run("set", organization, '{"live_tasks": null}', "--caller", organization).exit_code == 0

    assert json.loads(run("show", organization).stdout) == {"tasks_per_day": 5, "senders": ["@example.com"]}
    assert json.loads(run("show", organization, "--caller", organization).stdout) == {"live_tasks": None}
    with psycopg.connect(settings.database_url) as connection:
        rows = connection.execute(
            "SELECT actor_type, after->'limits' FROM audit_entries WHERE action = 'organization.quota_changed' ORDER BY id"
        ).fetchall()
    assert rows == [("command", {"tasks_per_day": 5, "senders": 1}), ("command", {"live_tasks": None})]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "acme", '{"tasks": 5}'), "Extra inputs"),
        (("set", "acme", "x"), "Invalid JSON"),
        (("set", "acme", '{"running_by_queue": {"other": 1}}'), "no queue other"),
        (("set", "nobody", "{}"), "no organization nobody"),
        (("show", "acme", "--caller", "nobody"), "no person or service nobody"),
    ],
)
def test_a_mistake_is_explained(organization: str, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())
