from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared import kill_points
from shared.errors import ConfigurationError
from shared.settings import Settings, read_settings

SAFE = {
    "TASKMILL_ENVIRONMENT": "production",
    "TASKMILL_SECRET_KEY": "k" * 32,
    "TASKMILL_FLOWER_PASSWORD": "a-password-of-the-test",
    "TASKMILL_BROKER_URL": "redis://:password@broker.example.com:6379/0",
    "TASKMILL_ALLOWED_HOSTS": "tasks.example.com",
}
"""What production starts on."""


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TASKMILL_DATABASE_URL", "mysql://root:s3cret@127.0.0.1/x", "postgresql://"),
        ("TASKMILL_DATABASE_URL", "127.0.0.1:5432/s3cret", "postgresql://"),
        ("TASKMILL_DATABASE_URL", "postgresql://taskmill:hun@s3cret@127.0.0.1/x", "%40"),
        ("TASKMILL_BROKER_URL", "valkey://:s3cret@127.0.0.1:6379/0", "redis://"),
        ("TASKMILL_BROKER_URL", "s3cret", "redis://"),
        ("TASKMILL_BROKER_URL", "unix:///run/s3cret.sock", "redis://"),
        ("TASKMILL_BROKER_URL", "redis+socket:///run/s3cret.sock", "redis://"),
        ("TASKMILL_SMTP_URL", "s3cret", "smtp://"),
        ("TASKMILL_SMTP_URL", "https://user:s3cret@mail.example.com", "smtp://"),
        ("TASKMILL_SMTP_URL", "smtp://", "smtp://"),
        ("TASKMILL_MAIL_FROM", "s3cret", "a mailbox"),
        ("TASKMILL_LEASE_SECONDS", "s3cret", "number"),
        ("TASKMILL_ENVIRONMENT", "s3cret", "production"),
    ],
)
def test_a_setting_that_no_part_could_use_is_refused_by_name_and_never_by_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        read_settings()

    assert name in str(caught.value)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TASKMILL_DATABASE_URL", "postgres://user:password@host:5432/taskmill?sslmode=require"),
        ("TASKMILL_DATABASE_URL", "host=/run/postgresql dbname=taskmill"),
        ("TASKMILL_DATABASE_URL", "host=@/run/postgresql dbname=taskmill"),
        ("TASKMILL_BROKER_URL", "rediss://:password@host:6380/0"),
        ("TASKMILL_SMTP_URL", "smtps://user:password@host"),
        ("TASKMILL_MAIL_FROM", "Zoë Müller <zoe@example.com>"),
    ],
)
def test_every_form_that_is_documented_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    read_settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TASKMILL_DATABSE_URL", "TASKMILL_DATABASE_URL"),
        ("TASKMILL_MAX_QUEUED_PER_CALLERS", "TASKMILL_MAX_QUEUED_PER_CALLER"),
        ("TASKMILL_LEASE_SECOND", "TASKMILL_LEASE_SECONDS"),
    ],
)
def test_a_misspelt_setting_is_refused_and_the_right_name_told(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "s3cret")

    with pytest.raises(ConfigurationError) as caught:
        read_settings()

    assert f"{name} is no setting: {meant} is" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_variables_of_the_launcher_and_of_compose_are_no_misspellings(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    read_by_others = "\n".join(
        (root / name).read_text() for name in ("docker-compose.prod.yml", "taskmill", ".env.example")
    )
    names = set(re.findall(r"TASKMILL_\w+", read_by_others)) - {kill_points.VARIABLE}
    settings = {f"TASKMILL_{name.upper()}" for name in Settings.model_fields}
    assert {"TASKMILL_HTTPS_PORT", "TASKMILL_PYTHON"} <= names - settings
    # Kubernetes sets the first for a service `taskmill-database`.
    names |= {"TASKMILL_DATABASE_PORT", "TASKMILL_DATABASE_USER", "TASKMILL_BASE_URL", "TASKMILL_CACHE_DIR"}
    for name in names - settings:
        monkeypatch.setenv(name, "value")

    read_settings()


def test_production_starts_when_every_door_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SAFE)

    assert read_settings().environment == "production"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("TASKMILL_SECRET_KEY", "change-me", "set it to a random value, such as "),
        ("TASKMILL_SECRET_KEY", "short", "set it to a random value, such as "),
        ("TASKMILL_FLOWER_PASSWORD", "change-me", "set it to a random value, such as "),
        ("TASKMILL_BROKER_URL", "redis://broker.example.com:6379/0", "requirepass"),
        ("TASKMILL_ALLOWED_HOSTS", "*", "list the names"),
        ("TASKMILL_ALLOWED_HOSTS", "tasks.example.com,*", "list the names"),
    ],
)
def test_production_names_each_open_door_and_how_to_close_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str
) -> None:
    set_all(monkeypatch, SAFE | {name: value})

    with pytest.raises(ConfigurationError) as caught:
        read_settings()

    complaints = [line for line in str(caught.value).splitlines() if line.startswith("- ")]
    assert len(complaints) == 1
    assert complaints[0].startswith(f"- {name} ")
    assert advice in complaints[0]


def test_a_broker_on_this_machine_needs_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SAFE | {"TASKMILL_BROKER_URL": "redis://127.0.0.1:6379/0"})

    read_settings()
