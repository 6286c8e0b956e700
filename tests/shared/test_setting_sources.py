"""Settings come from files and from AWS Secrets Manager. The server of moto stands in for AWS: it is a fake, not AWS itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from shared.errors import ConfigurationError
from shared.settings import read_settings

SECRET = "a-secret-key-of-more-than-32-characters"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without settings, with credentials that no AWS accepts."""
    for name in ("SECRET_KEY", "SMTP_URL", "MAIL_FROM", "AWS_SECRET_ID"):
        monkeypatch.delenv(f"TASKMILL_{name}", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-test")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def aws_url() -> Iterator[str]:
    """The address of moto's server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(aws_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, as the endpoint that boto3 uses."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", aws_url)
    return aws_url


def store(url: str, name: str, content: str) -> None:
    client = boto3.client("secretsmanager", endpoint_url=url, region_name="eu-central-1")
    client.create_secret(Name=name, SecretString=content)


def test_a_file_has_the_value_of_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    (tmp_path / "smtp").write_text("smtps://someone:password@mail.example.com")
    (tmp_path / "limits").write_text('{"tasks_per_day": 5}\n')
    (tmp_path / "origins").write_text("https://a.example.com,https://b.example.com\n")
    monkeypatch.setenv("TASKMILL_SECRET_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("TASKMILL_SMTP_URL_FILE", str(tmp_path / "smtp"))
    monkeypatch.setenv("TASKMILL_CALLER_LIMITS_FILE", str(tmp_path / "limits"))
    monkeypatch.setenv("TASKMILL_CORS_ORIGINS_FILE", str(tmp_path / "origins"))

    settings = read_settings()

    assert settings.secret_key.get_secret_value() == SECRET
    assert "mail.example.com" in str(settings.smtp_url.get_secret_value())
    assert settings.caller_limits.tasks_per_day == 5
    assert settings.cors_origins == ["https://a.example.com", "https://b.example.com"]


def test_a_variable_beside_its_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    monkeypatch.setenv("TASKMILL_SECRET_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("TASKMILL_SECRET_KEY", "another")

    with pytest.raises(ConfigurationError, match="TASKMILL_SECRET_KEY and TASKMILL_SECRET_KEY_FILE are both set"):
        read_settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe", "is no text in UTF-8"),
        (b"x" * 70_000, "has more than 65,536 bytes"),
    ],
    ids=["missing", "binary", "large"],
)
def test_a_file_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv("TASKMILL_SECRET_KEY_FILE", str(tmp_path / "key"))

    with pytest.raises(ConfigurationError, match=message) as refusal:
        read_settings()

    assert "TASKMILL_SECRET_KEY_FILE" in str(refusal.value)


def test_a_misspelt_file_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKMILL_SECRT_KEY_FILE", "/nowhere")

    with pytest.raises(ConfigurationError, match="TASKMILL_SECRT_KEY_FILE"):
        read_settings()


def test_a_secret_of_aws_has_the_values_of_settings(aws: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = '"TASKMILL_CALLER_LIMITS": "{\\"tasks_per_day\\": 5}"'
    store(aws, "taskmill", f'{{"TASKMILL_SECRET_KEY": "{SECRET}", "TASKMILL_MAIL_FROM": "aws@example.com", {limits}}}')
    (tmp_path / "id").write_text("taskmill\n")
    monkeypatch.setenv("TASKMILL_AWS_SECRET_ID_FILE", str(tmp_path / "id"))
    monkeypatch.setenv("TASKMILL_MAIL_FROM", "environment@example.com")

    settings = read_settings()

    assert settings.secret_key.get_secret_value() == SECRET
    assert settings.mail_from == "environment@example.com"
    assert settings.caller_limits.tasks_per_day == 5


def test_a_secret_that_aws_does_not_have_is_named(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKMILL_AWS_SECRET_ID", "no-such-secret")

    with pytest.raises(ConfigurationError, match=r"no-such-secret of TASKMILL_AWS_SECRET_ID cannot be read"):
        read_settings()


@pytest.mark.parametrize("content", [SECRET, f'["{SECRET}"]', f'{{"TASKMILL_SECRET_KEY": {{"a": "{SECRET}"}}}}'])
def test_a_secret_that_is_no_object_of_texts_is_refused_without_its_content(
    aws: str, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    name = f"odd-{abs(hash(content))}"
    store(aws, name, content)
    monkeypatch.setenv("TASKMILL_AWS_SECRET_ID", name)

    with pytest.raises(ConfigurationError) as refusal:
        read_settings()

    assert SECRET not in str(refusal.value)
