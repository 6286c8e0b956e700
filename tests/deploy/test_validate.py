"""The validator of the deployment files accepts those of the repository and reports unsafe changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import JsonValue

from deploy import validate
from shared.settings import Settings

NEEDED_PROGRAMS = {
    "nginx": [
        pytest.mark.needs_program("nginx", debian="nginx-light"),
        pytest.mark.needs_program("openssl", debian="openssl"),
    ]
}
"""What pip cannot install, by the name of the check that calls it."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDED_PROGRAMS.get(name, ())) for name in validate.CHECKS])
def test_the_deployment_files_pass_every_check(name: str) -> None:
    assert list(validate.CHECKS[name]()) == []


Change = Callable[[dict[str, Any]], None]


def _change_service(name: str, **changes: JsonValue) -> Change:
    return lambda compose: compose["services"][name].update(changes)


def _drop(name: str, key: str) -> Change:
    return lambda compose: compose["services"][name].pop(key)


def _open_the_inner_network(compose: dict[str, Any]) -> None:
    compose["networks"]["back"] = {}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_change_service("redis", ports=["6379:6379"]), "redis publishes a port"),
        (_change_service("api", networks=["edge", "back"]), "api is on the network edge"),
        (_change_service("api", network_mode="host"), "api is not isolated"),
        (_change_service("beat", restart="no"), "beat is not restarted"),
        (_change_service("relay", read_only=False), "relay may write"),
        (_drop("postgres", "healthcheck"), "postgres has no health check"),
        (_drop("worker-files", "deploy"), "worker-files has no limit of memory"),
        (_drop("worker-files", "pids_limit"), "worker-files has no limit of processes"),
        (_drop("flower", "networks"), "flower names no network"),
        (_drop("nginx", "stop_grace_period"), "nginx has no time to stop"),
        (_open_the_inner_network, "the network back has access to the outside"),
    ],
)
def test_an_unsafe_compose_file_is_reported(monkeypatch: pytest.MonkeyPatch, change: Change, complaint: str) -> None:
    compose = copy.deepcopy(validate.read_compose())
    change(compose)
    monkeypatch.setattr(validate, "read_compose", lambda: compose)

    assert any(line.startswith(complaint) for line in validate.check_compose_rules())


@pytest.mark.parametrize(
    "words",
    [
        ["./taskmill", "serve"],
        ["./taskmill"],
        ["./taskmill", "api", "--no-such-option"],
        ["./taskmill", "worker"],
        ["./taskmill", "api", "--port", "many"],
        ["celery", "worker"],
    ],
)
def test_a_procfile_with_an_unknown_command_is_reported(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(validate, "read_procfile", lambda: {"part": words})

    assert len(list(validate.check_procfile())) == 1


def test_a_missing_tool_fails_in_ci_and_is_reported_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_nothing(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(validate.shutil, "which", find_nothing)

    monkeypatch.delenv("CI", raising=False)
    assert validate.main() == 0
    assert "nginx: not checked: nginx is not installed" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert validate.main() == 1


def test_the_settings_of_the_compose_file_are_accepted_by_production() -> None:
    given = {
        "TASKMILL_SECRET_KEY": "x" * 64,
        "POSTGRES_PASSWORD": "abc",
        "POSTGRES_APP_PASSWORD": "abd",
        "REDIS_PASSWORD": "def",
        "TASKMILL_SMTP_URL": "smtp://mail.example.com:587?starttls=1",
        "TASKMILL_MAIL_FROM": "Taskmill <tasks@example.com>",
        "TASKMILL_ALLOWED_HOSTS": "tasks.example.com",
        "TASKMILL_FLOWER_PASSWORD": "p" * 12,
    }
    values = {
        name.removeprefix("TASKMILL_").lower(): _interpolate(value, given)
        for name, value in validate.read_compose()["x-settings"].items()
        if value is not None
    }

    settings = Settings(**values)

    settings.refuse_unsafe_production()
    assert settings.environment == "production"
    assert settings.broker_url == "redis://:def@redis:6379/0"


def test_the_compose_file_does_not_start_without_its_secrets() -> None:
    text = validate.COMPOSE_FILE.read_text()

    for name in (
        "TASKMILL_SECRET_KEY",
        "TASKMILL_FLOWER_PASSWORD",
        "TASKMILL_ALLOWED_HOSTS",
        "POSTGRES_PASSWORD",
        "POSTGRES_APP_PASSWORD",
        "REDIS_PASSWORD",
    ):
        assert "${" + name + ":?" in text
        assert "${" + name + "}" not in text
        assert "${" + name + ":-" not in text


def test_a_worker_may_take_longer_to_stop_than_its_grace() -> None:
    grace = Settings().shutdown_grace_seconds
    for name, service in validate.read_compose()["services"].items():
        if name.startswith("worker-"):
            seconds = float(_interpolate(service["stop_grace_period"], {}).removesuffix("s"))
            assert seconds > grace + 10


def _interpolate(value: str, given: dict[str, str]) -> str:
    """Substitute variables as Docker Compose does: `${NAME:-default}` and `${NAME:?message}`."""
    while "${" in value:
        before, _, rest = value.partition("${")
        inside, _, after = rest.partition("}")
        name, _, alternative = inside.partition(":")
        assert name in given or alternative.startswith("-"), f"{name} is required"
        value = before + given.get(name, alternative[1:]) + after
    return value


def test_only_migrate_connects_as_the_owner_of_the_tables() -> None:
    services = validate.read_compose()["services"]

    owners = {name for name, service in services.items() if "taskmill:${POSTGRES_PASSWORD" in str(service)}
    assert owners == {"migrate"}
