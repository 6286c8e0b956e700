"""`.env.example`, filled in, means the same to Docker Compose and to a shell."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from deploy.settings_reference import env_example
from shared.settings import Settings

FILLED_IN = {
    "TASKMILL_ENVIRONMENT": "production",
    "TASKMILL_SECRET_KEY": "0123456789abcdef0123456789abcdef",
    "TASKMILL_SMTP_URL": "'smtp://user:password@mail.example.com:587?starttls=1&verify=1'",
    "TASKMILL_MAIL_FROM": "'Taskmill <tasks@example.com>'",
    "TASKMILL_ALLOWED_HOSTS": "tasks.example.com,localhost",
    "TASKMILL_FLOWER_PASSWORD": "'a $trange pa#s;word'",
    "POSTGRES_PASSWORD": "abc1",
    "POSTGRES_APP_PASSWORD": "abc2",
    "REDIS_PASSWORD": "abc3",
}


def fill_in(text: str) -> str:
    """Remove the comment sign of every assignment, and fill in the values that have no default."""
    text = re.sub(r"^#([A-Z_]+=)", r"\1", text, flags=re.MULTILINE)
    for name, value in FILLED_IN.items():
        text = re.sub(rf"^{name}=.*$", lambda _, name=name, value=value: f"{name}={value}", text, flags=re.MULTILINE)
    return text


def read_with_shell(path: Path) -> dict[str, str]:
    outcome = subprocess.run(
        ["/bin/sh", "-eu", "-c", f"set -a; . {path}; env -0"], env={}, capture_output=True, text=True, check=True
    )
    assert outcome.stderr == ""
    return dict(entry.split("=", 1) for entry in outcome.stdout.split("\0") if entry)


def test_a_filled_in_example_is_read_alike_by_compose_and_a_shell(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(fill_in(env_example()))

    # Compose reads the same format as python-dotenv: quotes are taken away, and single-quoted text is literal.
    by_compose = dotenv_values(path)
    by_shell = read_with_shell(path)

    assert {name: by_shell[name] for name in by_compose} == by_compose
    assert by_shell["TASKMILL_MAIL_FROM"] == "Taskmill <tasks@example.com>"
    assert by_shell["TASKMILL_FLOWER_PASSWORD"] == "a $trange pa#s;word"


def test_production_starts_with_what_a_shell_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".env"
    path.write_text(fill_in(env_example()))
    for name, value in read_with_shell(path).items():
        if name.startswith("TASKMILL_"):
            monkeypatch.setenv(name, value)

    settings = Settings()

    settings.refuse_unsafe_production()
    assert settings.allowed_hosts == ["tasks.example.com", "localhost"]
    assert settings.database_owner_url is None
    assert settings.scratch_dir is None
