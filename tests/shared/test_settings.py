"""Settings: parsing, errors, misspellings, and what production refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared import kill_points
from shared.errors import ConfigurationError
from shared.settings import SUBJECTS, Settings, read_settings

SAFE = {
    "TASKMILL_ENVIRONMENT": "production",
    "TASKMILL_SECRET_KEY": "k" * 32,
    "TASKMILL_FLOWER_PASSWORD": "a-password-of-the-test",
    "TASKMILL_BROKER_URL": "redis://:password@broker.example.com:6379/0",
    "TASKMILL_ALLOWED_HOSTS": "tasks.example.com",
    "TASKMILL_PUBLIC_URL": "https://tasks.example.com",
}
"""Settings with which production starts."""


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
        ("TASKMILL_PUBLIC_URL", "https://user:s3cret@tasks.example.com", "https://tasks.example.com"),
        ("TASKMILL_REGISTRATION", "s3cret", "invite"),
        ("TASKMILL_CALLER_LIMITS", '{"s3cret', "a JSON object"),
        (
            "TASKMILL_ORGANIZATION_LIMITS",
            '{"tasks_per_day": "s3cret"}',
            "TASKMILL_ORGANIZATION_LIMITS (tasks_per_day): ",
        ),
        ("TASKMILL_CORS_ORIGINS", "https://app.example.com,s3cret", "TASKMILL_CORS_ORIGINS (1): "),
    ],
)
def test_an_unusable_value_is_reported_by_the_name_of_its_setting_only(
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
def test_each_documented_form_of_a_url_is_accepted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
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
def test_a_misspelt_setting_is_refused_with_the_right_name(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "s3cret")

    with pytest.raises(ConfigurationError) as caught:
        read_settings()

    assert f"{name} is not a setting: did you mean {meant}?" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_variables_of_the_launcher_and_of_compose_are_not_taken_for_misspellings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(__file__).parents[2]
    read_by_others = "\n".join(
        (root / name).read_text() for name in ("docker-compose.prod.yml", "taskmill", ".env.example")
    )
    names = set(re.findall(r"TASKMILL_\w+", read_by_others)) - {kill_points.KILL_POINT_VARIABLE}
    settings = {f"TASKMILL_{name.upper()}" for name in Settings.model_fields}
    assert {"TASKMILL_HTTPS_PORT", "TASKMILL_PYTHON"} <= names - settings
    # Kubernetes sets the first for a service `taskmill-database`.
    names |= {"TASKMILL_DATABASE_PORT", "TASKMILL_DATABASE_USER", "TASKMILL_BASE_URL", "TASKMILL_CACHE_DIR"}
    for name in names - settings:
        monkeypatch.setenv(name, "value")

    read_settings()


def test_production_starts_with_safe_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SAFE)

    assert read_settings().environment == "production"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("TASKMILL_SECRET_KEY", "change-me", "set it to a random value, such as "),
        ("TASKMILL_SECRET_KEY", "k" * 31, "set it to a random value, such as "),
        ("TASKMILL_FLOWER_PASSWORD", "change-me", "set it to a random value, such as "),
        ("TASKMILL_FLOWER_PASSWORD", "p" * 11, "set it to a random value, such as "),
        ("TASKMILL_BROKER_URL", "redis://broker.example.com:6379/0", "requirepass"),
        ("TASKMILL_DATABASE_URL", "postgresql://taskmill@db.example.com/taskmill", "ALTER ROLE"),
        ("TASKMILL_DATABASE_URL", "host=127.0.0.1,db.example.com dbname=taskmill", "ALTER ROLE"),
        ("TASKMILL_DATABASE_URL", "host=localhost hostaddr=192.0.2.7 dbname=taskmill", "ALTER ROLE"),
        ("TASKMILL_DATABASE_OWNER_URL", "postgresql://owner@db.example.com/taskmill", "ALTER ROLE"),
        ("TASKMILL_SMTP_URL", "smtp://user:password@mail.example.com:587?starttls=1&verify=0", "remove verify=0"),
        ("TASKMILL_SMTP_URL", "smtps://user:password@mail.example.com?verify=False", "remove verify=False"),
        ("TASKMILL_ALLOWED_HOSTS", "*", "list the host names"),
        ("TASKMILL_PASSWORD_MEMORY_KIB", "1024", "at least 19456 KiB"),
        ("TASKMILL_ALLOWED_HOSTS", "tasks.example.com,*", "list the host names"),
        ("TASKMILL_FORWARDED_ALLOW_IPS", "*", "list the addresses of your proxies"),
        ("TASKMILL_FORWARDED_ALLOW_IPS", "127.0.0.1, *", "list the addresses of your proxies"),
        ("TASKMILL_FORWARDED_ALLOW_IPS", "0.0.0.0/0", "list the addresses of your proxies"),
        ("TASKMILL_FORWARDED_ALLOW_IPS", "10.0.0.1, ::/0", "list the addresses of your proxies"),
        ("TASKMILL_FORWARDED_ALLOW_IPS", "0.0.0.0/1,128.0.0.0/1", "list the addresses of your proxies"),
    ],
)
def test_production_names_each_unsafe_setting_and_what_to_set_instead(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str
) -> None:
    set_all(monkeypatch, SAFE | {name: value})

    with pytest.raises(ConfigurationError) as caught:
        read_settings()

    complaints = [line for line in str(caught.value).splitlines() if line.startswith("- ")]
    assert len(complaints) == 1
    assert complaints[0].startswith(f"- {name} ")
    assert advice in complaints[0]


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR"])
def test_production_reads_the_host_of_the_database_where_libpq_does(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    set_all(monkeypatch, SAFE | {"TASKMILL_DATABASE_URL": "postgresql:///taskmill", name: "192.0.2.7"})

    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.7 is not this machine"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TASKMILL_BROKER_URL", "redis://127.0.0.1:6379/0"),
        ("TASKMILL_DATABASE_URL", "postgresql://taskmill@127.0.0.1/taskmill"),
        ("TASKMILL_DATABASE_URL", "host=/run/postgresql dbname=taskmill"),
        ("TASKMILL_DATABASE_URL", "host=db.example.com user=taskmill passfile=/etc/pgpass sslmode=verify-full"),
        ("TASKMILL_SMTP_URL", "smtp://mail.example.com:25?verify=0"),
    ],
)
def test_production_accepts_what_needs_no_password(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    set_all(monkeypatch, SAFE | {name: value})

    assert read_settings().list_warnings() == []


@pytest.mark.parametrize(
    ("url", "is_warned_about"),
    [
        ("postgresql://taskmill:password@db.example.com/taskmill", True),
        ("postgresql://taskmill:password@db.example.com/taskmill?sslmode=prefer", True),
        ("postgresql://taskmill:password@db.example.com/taskmill?sslmode=require", False),
        ("postgresql://taskmill:password@db.example.com/taskmill?sslmode=verify-full", False),
        ("postgresql://taskmill:password@127.0.0.1/taskmill", False),
    ],
)
def test_production_warns_about_a_remote_database_without_tls(
    monkeypatch: pytest.MonkeyPatch, url: str, is_warned_about: bool
) -> None:
    set_all(monkeypatch, SAFE | {"TASKMILL_DATABASE_URL": url})

    warnings = read_settings().list_warnings()

    assert [warning.split()[0] for warning in warnings] == ["TASKMILL_DATABASE_URL"] * is_warned_about


def test_production_warns_about_pages_of_origins_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    origins = "https://app.example.com,http://app.example.com,http://localhost:3000"
    set_all(monkeypatch, SAFE | {"TASKMILL_CORS_ORIGINS": origins})

    warnings = read_settings().list_warnings()

    assert [" ".join(warning.split()[:3]) for warning in warnings] == [
        "TASKMILL_CORS_ORIGINS has http://app.example.com:"
    ]


@pytest.mark.parametrize(
    ("environment", "given", "served"),
    [
        ("development", None, True),
        ("development", "false", False),
        ("production", None, False),
        ("production", "true", True),
    ],
)
def test_docs_are_served_in_production_only_when_switched_on(
    monkeypatch: pytest.MonkeyPatch, environment: str, given: str | None, served: bool
) -> None:
    set_all(monkeypatch, SAFE | {"TASKMILL_ENVIRONMENT": environment})
    if given is not None:
        monkeypatch.setenv("TASKMILL_DOCS_ENABLED", given)

    assert read_settings().docs_enabled is served


def test_migrate_connects_with_the_owner_url_when_there_is_one() -> None:
    owner = "postgresql://owner@127.0.0.1/taskmill"

    assert Settings(database_owner_url=owner).migration_url == owner
    assert Settings().migration_url == Settings().database_url


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.setenv(f"TASKMILL_{field.upper()}", "")

    assert read_settings() == Settings.model_construct()


def test_settings_consist_of_the_subjects_and_nothing_else() -> None:
    fields = [name for subject in SUBJECTS for name in subject.model_fields]

    assert sorted(fields) == sorted(Settings.model_fields)
    assert all(issubclass(Settings, subject) and subject.title for subject in SUBJECTS)
