"""The settings of every part of Taskmill: one class, read once, passed in.

Each name equals its environment variable, `TASKMILL_` and the field in capitals. The table in README.md and the file
.env.example are held against this class by a test.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared import kill_points
from shared.errors import ConfigurationError

PREFIX = "TASKMILL_"
ALMOST = 0.9
"""How much of a setting's name is enough to take a variable for a misspelling of it, as `difflib` reckons."""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
REDIS_SCHEMES = frozenset({"redis", "rediss"})
DEFAULT_SECRET_KEY = "change-me"
DEFAULT_FLOWER_PASSWORD = "change-me"

GIBIBYTE = 1 << 30
MEBIBYTE = 1 << 20


class Settings(BaseSettings):
    """What an operator may decide. Durations are in seconds and sizes in bytes, as the field names say."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    environment: Annotated[
        Literal["development", "production"],
        Field(description="`production` refuses to start on default secrets and open doors."),
    ] = "development"
    secret_key: Annotated[
        SecretStr, Field(description="Signs what the platform hands out and takes back, such as list cursors.")
    ] = SecretStr(DEFAULT_SECRET_KEY)

    database_url: Annotated[
        str, Field(description="Postgres, in libpq's form: `postgresql://user:password@host:5432/taskmill`.")
    ] = "postgresql://taskmill@127.0.0.1:5432/taskmill"
    database_pool_size: Annotated[
        int,
        Field(ge=1, le=200, description="Connections of each of the two pools of an API process, which has four more."),
    ] = 8
    database_timeout_seconds: Annotated[
        float, Field(gt=0, description="How long a statement or a wait for a connection may take before a 503.")
    ] = 5.0
    broker_url: Annotated[
        str, Field(description="Redis or Valkey: `redis://:password@host:6379/0`, or `rediss://…` with TLS.")
    ] = "redis://127.0.0.1:6379/0"
    storage_url: Annotated[
        str,
        Field(
            description="Where files lie: `file:///srv/taskmill`, or "
            "`s3://bucket/prefix?endpoint_url=https://…&region=…` (credentials as boto3 finds them)."
        ),
    ] = "file:///var/lib/taskmill/objects"
    smtp_url: Annotated[
        SecretStr,
        Field(
            description="The mail server: `smtp://user:password@host:587?starttls=1`, or `smtps://…` for TLS at once; "
            "`?verify=0` believes any certificate."
        ),
    ] = SecretStr("smtp://127.0.0.1:25")
    mail_from: Annotated[str, Field(description="The sender of a message that names none.")] = (
        "Taskmill <taskmill@localhost>"
    )

    allowed_hosts: Annotated[
        Annotated[list[str], NoDecode],
        Field(description="Host names that the API answers to, separated by commas; `*` for any (not in production)."),
    ] = ["*"]
    forwarded_allow_ips: Annotated[
        str, Field(description="Proxies whose `X-Forwarded-For` is believed, separated by commas.")
    ] = "127.0.0.1"
    docs_enabled: Annotated[bool, Field(description="Serve `/openapi.json` and `/docs`.")] = True
    max_json_bytes: Annotated[int, Field(ge=1024, description="The largest JSON body.")] = MEBIBYTE
    max_batch_bytes: Annotated[int, Field(ge=1024, description="The largest body of `POST /tasks/batch`.")] = (
        16 * MEBIBYTE
    )
    max_upload_bytes: Annotated[int, Field(ge=1, description="The largest upload.")] = 5 * GIBIBYTE
    rate_limit_client: Annotated[
        int, Field(ge=1, description="Requests a minute of one client, for each class of route and API process.")
    ] = 600
    rate_limit_privileged: Annotated[
        int,
        Field(ge=1, description="The same for operators and admins; the default is a bound that no one reaches."),
    ] = 10_000_000
    rate_limit_unauthenticated: Annotated[
        int, Field(ge=1, description="Refused credentials a minute from one address, before it is answered 429.")
    ] = 600

    max_queued: Annotated[
        int, Field(ge=0, description="Tasks that may be queued, of all callers; more is answered 429. 0 for no bound.")
    ] = 0
    max_queued_per_caller: Annotated[int, Field(ge=0, description="The same for each caller by itself.")] = 0
    lease_seconds: Annotated[
        float, Field(ge=1, le=3600, description="How long a running attempt may be silent before it is taken back.")
    ] = 15.0
    shutdown_grace_seconds: Annotated[
        float, Field(ge=0, le=3600, description="How long a stopping worker finishes work before it hands it back.")
    ] = 8.0
    worker_concurrency: Annotated[
        int, Field(ge=1, le=512, description="Attempts that one worker process runs at a time, unless told.")
    ] = 4
    window: Annotated[
        int, Field(ge=1, le=100_000, description="Messages of one queue that the relay keeps in the broker.")
    ] = 1000
    rering_seconds: Annotated[
        float, Field(ge=1, description="After this long, a published task that no worker claimed is published again.")
    ] = 15.0
    scratch_dir: Annotated[
        Path | None,
        Field(description="Where handlers keep their scratch folders; the system's temporary folder if unset."),
    ] = None
    child_memory_bytes: Annotated[
        int, Field(ge=256 * MEBIBYTE, description="Memory of a child that reads untrusted bytes.")
    ] = 2 * GIBIBYTE

    flower_host: Annotated[str, Field(description="The address that Flower listens on.")] = "127.0.0.1"
    flower_port: Annotated[int, Field(ge=1, le=65535, description="The port that Flower listens on.")] = 5555
    flower_user: Annotated[str, Field(description="The user that Flower asks for.")] = "operator"
    flower_password: Annotated[SecretStr, Field(description="The password that Flower asks for.")] = SecretStr(
        DEFAULT_FLOWER_PASSWORD
    )
    flower_url_prefix: Annotated[
        str, Field(description="The path under which a proxy serves Flower, such as `flower`.")
    ] = ""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="The least severe event that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Field(description="`auto` is `console` on a terminal and `json` elsewhere."),
    ] = "auto"

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return [host.strip() for host in value.split(",") if host.strip()] if isinstance(value, str) else value

    @field_validator("log_level", "log_format", "environment", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _require_libpqs_form(cls, value: str) -> str:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            host = conninfo_to_dict(value).get("host")
        except ProgrammingError:
            raise _refusal("must be in libpq's form, such as postgresql://user:password@host:5432/taskmill") from None
        # One at the beginning names a socket in Linux' abstract namespace.
        if "@" in str(host or "").removeprefix("@"):
            # What libpq takes for the host would hold half of the password, and be told in errors.
            raise _refusal("has more than one @: in a password it is written %40")
        return value

    @field_validator("broker_url")
    @classmethod
    def _require_a_known_broker(cls, value: str) -> str:
        # Of a broker that speaks AMQP the API knows no more than whether it lives; the relay refuses it, saying why.
        if urlsplit(value).scheme not in REDIS_SCHEMES | {"amqp", "amqps"}:
            raise _refusal(
                "must be a Redis or Valkey, such as redis://:password@host:6379/0, or rediss://… with TLS; a Valkey's "
                "begins with redis:// too"
            )
        return value

    @field_validator("smtp_url")
    @classmethod
    def _require_a_mail_server(cls, value: SecretStr) -> SecretStr:
        url = urlsplit(value.get_secret_value())
        if url.scheme not in {"smtp", "smtps"} or not url.hostname:
            raise _refusal("must name a mail server, such as smtp://user:password@host:587?starttls=1 or smtps://…")
        return value

    @field_validator("mail_from")
    @classmethod
    def _require_a_mailbox(cls, value: str) -> str:
        if "@" not in value:
            raise _refusal("must be a mailbox, such as Taskmill <taskmill@example.com>")
        return value

    @cached_property
    def broker_is_redis(self) -> bool:
        """Whether the broker speaks Redis: only then are there wake-ups, and messages pushed without kombu."""
        return urlsplit(self.broker_url).scheme in REDIS_SCHEMES

    def refuse_unsafe_production(self) -> None:
        """Raise `ConfigurationError`, naming every door that is open and how to close it, in production only."""
        if self.environment != "production":
            return
        complaints = []
        if self.secret_key.get_secret_value() == DEFAULT_SECRET_KEY or len(self.secret_key.get_secret_value()) < 32:
            complaints.append(
                "TASKMILL_SECRET_KEY is the default or shorter than 32 characters: "
                f"set it to a random value, such as {secrets.token_urlsafe(32)}"
            )
        if self.flower_password.get_secret_value() == DEFAULT_FLOWER_PASSWORD:
            complaints.append(
                "TASKMILL_FLOWER_PASSWORD is the default: "
                f"set it to a random value, such as {secrets.token_urlsafe(24)}"
            )
        broker = urlsplit(self.broker_url)
        if broker.hostname and broker.hostname not in LOOPBACK_HOSTS and not broker.password:
            complaints.append(
                f"TASKMILL_BROKER_URL has no password, and {broker.hostname} is not this machine: "
                "give the broker one (`requirepass`) and name it in the URL, as in redis://:PASSWORD@host:6379/0"
            )
        if "*" in self.allowed_hosts:
            complaints.append(
                "TASKMILL_ALLOWED_HOSTS is `*`: list the names that the API is reached by, such as tasks.example.com"
            )
        if os.environ.get(kill_points.VARIABLE):
            complaints.append(f"{kill_points.VARIABLE} makes processes die, and is for tests: unset it")
        if complaints:
            raise ConfigurationError(
                "Taskmill does not start in production:\n" + "\n".join(f"- {c}" for c in complaints)
            )


def _refusal(message: str) -> PydanticCustomError:
    """Refuse a value without a word of it: it may hold a password."""
    return PydanticCustomError("wrong_url", "{message}", {"message": message})


def read_settings() -> Settings:
    """Read the environment. Raises `ConfigurationError` with each variable that is wrong, and never its value.

    A variable whose name is almost a setting's is wrong too: it was meant to change something, and would change nothing.
    """
    from pydantic import ValidationError

    if misspelt := _find_misspelt(os.environ):
        raise ConfigurationError("Some settings are misspelt:\n" + "\n".join(misspelt))
    try:
        settings = Settings()
    except ValidationError as error:
        lines = [f"- TASKMILL_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError("Some settings are wrong:\n" + "\n".join(lines)) from None
    settings.refuse_unsafe_production()
    kill_points.arm(settings.environment if "environment" in settings.model_fields_set else None)
    return settings


def _find_misspelt(names: Iterable[str]) -> list[str]:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    found = []
    for name in sorted(names):
        if name.startswith(PREFIX) and name not in known:
            ending = name.removeprefix(PREFIX)
            close = get_close_matches(ending, [setting.removeprefix(PREFIX) for setting in known], 1, ALMOST)
            found += [f"- {name} is no setting: {PREFIX}{setting} is" for setting in close]
    return found
