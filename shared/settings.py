"""The settings of every part of Taskmill: read once from the environment, and passed in.

Each subject has a class of its own (`DatabaseSettings`, `MailSettings`, …) with its fields, what it validates, and what it
refuses in production. `Settings` inherits from all of them, so that it can be passed to a function that asks for one
subject. A new capability adds a class to `Settings` and to `SUBJECTS`.

The environment variable of a field is `TASKMILL_` and its name in capitals; an empty one counts as unset. The table in
README.md and the file .env.example are generated from these classes (`deploy/settings_reference.py`), and a test
compares them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from shared import kill_points
from shared.encryption_keys import parse_encryption_keys
from shared.errors import ConfigurationError
from shared.limit_settings import LimitSettings, QuotaSettings
from shared.networks import includes_every_address
from shared.oidc_settings import OidcSettings
from shared.people_settings import PeopleSettings
from shared.setting_sources import FILE_SUFFIX, FileSource, open_aws_source
from shared.setting_subjects import GIBIBYTE, MEBIBYTE, Subject, name_in_environment, refusal

PREFIX = "TASKMILL_"
MISSPELLING_SIMILARITY = 0.9
"""How similar a variable must be to the name of a setting, as `difflib` measures it, to be reported as a misspelling."""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
REDIS_SCHEMES = frozenset({"redis", "rediss"})
ENCRYPTING_SSL_MODES = frozenset({"require", "verify-ca", "verify-full"})
DEFAULT_SECRET_KEY = "change-me"
DEFAULT_FLOWER_PASSWORD = "change-me"
SHORTEST_SECRET_KEY = 32
SHORTEST_FLOWER_PASSWORD = 12


class PlatformSettings(Subject):
    """Settings of the platform as a whole."""

    title: ClassVar[str] = "Platform"

    environment: Annotated[
        Literal["development", "production"],
        Field(description="`production` refuses to start with default secrets or unsafe settings."),
    ] = "development"
    secret_key: Annotated[
        SecretStr,
        Field(
            description="Signs values that the API sends and later accepts again, such as list cursors, and encrypts stored "
            "secrets unless `TASKMILL_ENCRYPTION_KEYS` is set."
        ),
    ] = SecretStr(DEFAULT_SECRET_KEY)

    @field_validator("environment", mode="before")
    @classmethod
    def _lower_environment(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    def list_production_faults(self) -> Iterator[str]:
        """Refuse a secret key that is known or can be guessed, and kill points, which are for tests."""
        key = self.secret_key.get_secret_value()
        if key == DEFAULT_SECRET_KEY or len(key) < SHORTEST_SECRET_KEY:
            yield (
                f"TASKMILL_SECRET_KEY is the default or shorter than {SHORTEST_SECRET_KEY} characters: "
                f"set it to a random value, such as {secrets.token_urlsafe(32)}"
            )
        if os.environ.get(kill_points.KILL_POINT_VARIABLE):
            yield f"{kill_points.KILL_POINT_VARIABLE} kills processes and is for tests only: unset it"


class StoredSecretSettings(Subject):
    """The keys with which secrets are encrypted before they are stored."""

    title: ClassVar[str] = "Stored secrets"

    encryption_keys: Annotated[
        SecretStr,
        Field(
            description="Keys that encrypt stored secrets, such as those of webhooks: `name:key`, separated by commas, with keys "
            "of 64 hexadecimal digits. The first encrypts, and each decrypts what it encrypted. If unset, a key is derived "
            "from `TASKMILL_SECRET_KEY`, which must not change then."
        ),
    ] = SecretStr("")

    @field_validator("encryption_keys")
    @classmethod
    def _require_names_and_keys(cls, value: SecretStr) -> SecretStr:
        try:
            parse_encryption_keys(value.get_secret_value())
        except ValueError as error:
            raise refusal(str(error)) from None
        return value


class SecretSourceSettings(Subject):
    """Where secret settings come from, if not from the environment."""

    title: ClassVar[str] = "Secrets from elsewhere"

    aws_secret_id: Annotated[
        str,
        Field(
            description="The name or ARN of a secret in AWS Secrets Manager that has settings: a JSON object such as "
            '`{"TASKMILL_SECRET_KEY": "…"}`. boto3 finds region and credentials, such as in `AWS_REGION`.'
        ),
    ] = ""


class OutgoingRequestSettings(Subject):
    """Where HTTP requests for callers, such as webhooks, may go."""

    title: ClassVar[str] = "Outgoing requests"

    allowed_networks: Annotated[
        Annotated[list[IPv4Network | IPv6Network], NoDecode],
        Field(
            description="Networks that webhooks may be sent to although they are loopback, private, link-local or otherwise not "
            "public, separated by commas, such as `10.20.0.0/16`. By default none."
        ),
    ] = []  # noqa: RUF012 - pydantic copies a default.

    @field_validator("allowed_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


class DatabaseSettings(Subject):
    """The connection to Postgres."""

    title: ClassVar[str] = "Database"

    database_url: Annotated[
        str,
        Field(
            description="Postgres, in libpq's form: `postgresql://user:password@host:5432/taskmill`. Its role needs no "
            "right to change tables if `TASKMILL_DATABASE_OWNER_URL` is set."
        ),
    ] = "postgresql://taskmill@127.0.0.1:5432/taskmill"
    database_owner_url: Annotated[
        str | None,
        Field(
            description="The same database with the role that owns the tables, for `taskmill migrate` only; "
            "`TASKMILL_DATABASE_URL` if unset."
        ),
    ] = None
    database_pool_size: Annotated[
        int,
        Field(
            ge=1,
            le=200,
            description="Connections in each of the two pools of an API process, which opens four more besides.",
        ),
    ] = 8
    database_timeout_seconds: Annotated[
        float,
        Field(gt=0, description="How long a statement or a wait for a connection may take before the answer is 503."),
    ] = 5.0

    @field_validator("database_url", "database_owner_url")
    @classmethod
    def _require_libpq_form(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from psycopg import ProgrammingError

        try:
            host = _parse_conninfo(value).get("host")
        except ProgrammingError:
            raise refusal("must be in libpq's form, such as postgresql://user:password@host:5432/taskmill") from None
        # An @ at the beginning names a socket in Linux' abstract namespace.
        if "@" in str(host or "").removeprefix("@"):
            # libpq would read a part of the password as the host, and error messages would show it.
            raise refusal("has more than one @: in a password it is written %40")
        return value

    @property
    def migration_url(self) -> str:
        """The URL that `migrate` connects with: the owner's, or the only one."""
        return self.database_owner_url or self.database_url

    def list_production_faults(self) -> Iterator[str]:
        """Refuse a connection to another machine without a password or a client certificate."""
        for name, url in self._named_urls():
            parameters = _parse_conninfo(url)
            remote = _find_remote_host(parameters)
            if remote and not any(parameters.get(key) for key in ("password", "passfile", "service", "sslcert")):
                if os.environ.get("PGPASSWORD") or os.environ.get("PGPASSFILE"):
                    continue
                yield (
                    f"{name} has no password, and {remote} is not this machine: give the role one "
                    f"(ALTER ROLE … PASSWORD '{secrets.token_urlsafe(24)}') and put it into the URL, as in "
                    "postgresql://user:PASSWORD@host:5432/taskmill"
                )

    def list_production_warnings(self) -> Iterator[str]:
        """Warn about a connection to another machine that may be unencrypted."""
        for name, url in self._named_urls():
            parameters = _parse_conninfo(url)
            mode = parameters.get("sslmode") or os.environ.get("PGSSLMODE")
            if (remote := _find_remote_host(parameters)) and mode not in ENCRYPTING_SSL_MODES:
                yield (
                    f"{name} does not require TLS, and {remote} is not this machine: "
                    "add sslmode=verify-full, or sslmode=require, unless the network between them is trusted"
                )

    def _named_urls(self) -> Iterator[tuple[str, str]]:
        yield "TASKMILL_DATABASE_URL", self.database_url
        if self.database_owner_url is not None:
            yield "TASKMILL_DATABASE_OWNER_URL", self.database_owner_url


class BrokerSettings(Subject):
    """The connection to the broker, and what the relay keeps in it."""

    title: ClassVar[str] = "Broker and relay"

    broker_url: Annotated[
        str, Field(description="Redis or Valkey: `redis://:password@host:6379/0`, or `rediss://…` with TLS.")
    ] = "redis://127.0.0.1:6379/0"
    window: Annotated[
        int,
        Field(ge=1, le=100_000, description="How many tasks of a queue may be published and not yet claimed."),
    ] = 1000
    rering_seconds: Annotated[
        float, Field(ge=1, description="After this time the relay republishes a task that no worker claimed.")
    ] = 15.0

    @field_validator("broker_url")
    @classmethod
    def _require_a_known_broker(cls, value: str) -> str:
        # The API only checks whether an AMQP broker can be reached; the relay refuses it and says why.
        if urlsplit(value).scheme not in REDIS_SCHEMES | {"amqp", "amqps"}:
            raise refusal(
                "must be a Redis or Valkey server, such as redis://:password@host:6379/0, or rediss://… with TLS; the URL "
                "of a Valkey server begins with redis:// too"
            )
        return value

    @cached_property
    def broker_is_redis(self) -> bool:
        """Whether the broker speaks the Redis protocol. Wake-ups, and publishing without kombu, need that."""
        return urlsplit(self.broker_url).scheme in REDIS_SCHEMES

    def list_production_faults(self) -> Iterator[str]:
        """Refuse a broker on another machine without a password."""
        broker = urlsplit(self.broker_url)
        if broker.hostname and broker.hostname not in LOOPBACK_HOSTS and not broker.password:
            yield (
                f"TASKMILL_BROKER_URL has no password, and {broker.hostname} is not this machine: give the broker a "
                f"random one (`requirepass {secrets.token_hex(24)}`) and put it into the URL, as in "
                "redis://:PASSWORD@host:6379/0"
            )


class StorageSettings(Subject):
    """Where objects are stored."""

    title: ClassVar[str] = "Storage"

    storage_url: Annotated[
        str,
        Field(
            description="Where files are stored: `file:///srv/taskmill`, or "
            "`s3://bucket/prefix?endpoint_url=https://…&region=…` (with credentials where boto3 finds them)."
        ),
    ] = "file:///var/lib/taskmill/objects"


class MailSettings(Subject):
    """The mail server and the default sender."""

    title: ClassVar[str] = "Mail"

    smtp_url: Annotated[
        SecretStr,
        Field(
            description="The mail server: `smtp://user:password@host:587?starttls=1`, or `smtps://…` for TLS from the "
            "start; `verify=0` accepts any certificate."
        ),
    ] = SecretStr("smtp://127.0.0.1:25")
    mail_from: Annotated[
        str, Field(description="The sender of messages that name none, such as `Taskmill <tasks@example.com>`.")
    ] = "Taskmill <taskmill@localhost>"

    @field_validator("smtp_url")
    @classmethod
    def _require_a_mail_server(cls, value: SecretStr) -> SecretStr:
        url = urlsplit(value.get_secret_value())
        if url.scheme not in {"smtp", "smtps"} or not url.hostname:
            raise refusal("must name a mail server, such as smtp://user:password@host:587?starttls=1 or smtps://…")
        return value

    @field_validator("mail_from")
    @classmethod
    def _require_a_mailbox(cls, value: str) -> str:
        if "@" not in value:
            raise refusal("must be a mailbox, such as Taskmill <taskmill@example.com>")
        return value

    def list_production_faults(self) -> Iterator[str]:
        """Refuse credentials that any server could collect, because its certificate is not verified."""
        url = urlsplit(self.smtp_url.get_secret_value())
        verify = parse_qs(url.query).get("verify", ["1"])[-1]
        if verify.lower() in {"0", "false"} and (url.username or url.password):
            yield (
                f"TASKMILL_SMTP_URL has credentials and `verify={verify}`, so they would be sent to any server that answers: "
                f"remove verify={verify}; if the server's certificate is your own, let the system trust its authority "
                "(SSL_CERT_FILE=/path/to/ca.pem)"
            )


class ApiSettings(Subject):
    """How the API may be reached, and what it serves."""

    title: ClassVar[str] = "API"

    allowed_hosts: Annotated[
        Annotated[list[str], NoDecode],
        Field(
            description="Host names that the API answers to, separated by commas; `*` for any (refused in production)."
        ),
    ] = ["*"]  # noqa: RUF012 - The same.
    forwarded_allow_ips: Annotated[
        str,
        Field(
            description="Addresses or networks of proxies whose `X-Forwarded-For` is trusted, separated by commas "
            "(`*` is refused in production)."
        ),
    ] = "127.0.0.1"
    cors_origins: Annotated[
        Annotated[list[Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?$")]], NoDecode],
        Field(
            description="Origins, such as `https://app.example.com`, whose pages may call the API from a browser, separated by "
            "commas. By default none."
        ),
    ] = []  # noqa: RUF012 - The same.
    docs_enabled: Annotated[
        bool, Field(description="Serve `/openapi.json` and `/docs`. In production the default is `false`.")
    ] = True

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return [host.strip() for host in value.split(",") if host.strip()] if isinstance(value, str) else value

    def list_production_faults(self) -> Iterator[str]:
        """Refuse any host name, and `X-Forwarded-For` of any client."""
        if "*" in self.allowed_hosts:
            yield (
                "TASKMILL_ALLOWED_HOSTS is `*`: list the host names by which clients reach the API, such as "
                "tasks.example.com"
            )
        if includes_every_address(self.forwarded_allow_ips):
            yield (
                "TASKMILL_FORWARDED_ALLOW_IPS includes every address, so every client could choose the one that is logged "
                "and limited: list the addresses of your proxies, such as 127.0.0.1 or 10.0.0.0/24"
            )

    def list_production_warnings(self) -> Iterator[str]:
        """Warn about origins whose pages anybody in the network between could change."""
        for origin in self.cors_origins:
            if urlsplit(origin).scheme == "http" and urlsplit(origin).hostname not in LOOPBACK_HOSTS:
                yield (
                    f"TASKMILL_CORS_ORIGINS has {origin}: whoever is between that server and a browser can change its pages, "
                    "and read what they read from the API; name an origin that begins with https://"
                )


class AuditSettings(Subject):
    """The audit log."""

    title: ClassVar[str] = "Audit log"

    audit_keep_days: Annotated[
        int, Field(ge=1, le=36500, description="For how many days entries of the audit log are kept.")
    ] = 400


class WorkerSettings(Subject):
    """How workers run attempts."""

    title: ClassVar[str] = "Workers"

    lease_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=3600,
            description="How long a claim holds without a heartbeat before its task is swept.",
        ),
    ] = 15.0
    shutdown_grace_seconds: Annotated[
        float,
        Field(ge=0, le=3600, description="How long a stopping worker may finish its attempts before it requeues them."),
    ] = 8.0
    worker_concurrency: Annotated[
        int,
        Field(ge=1, le=512, description="How many attempts a worker runs at a time, unless `--concurrency` is given."),
    ] = 4
    worker_remote_control: Annotated[
        bool,
        Field(
            description="Whether workers execute Celery's remote control commands, which anyone with access to the broker can "
            "send. Taskmill does not need them."
        ),
    ] = False
    scratch_dir: Annotated[
        Path | None,
        Field(description="Where the scratch folders of attempts are made; the system's temporary folder if unset."),
    ] = None
    child_memory_bytes: Annotated[
        int, Field(ge=256 * MEBIBYTE, description="Memory of a limited child, which reads untrusted bytes.")
    ] = 2 * GIBIBYTE


class FlowerSettings(Subject):
    """How operators reach Flower."""

    title: ClassVar[str] = "Flower"

    flower_host: Annotated[str, Field(description="The address that Flower listens on.")] = "127.0.0.1"
    flower_port: Annotated[int, Field(ge=1, le=65535, description="The port that Flower listens on.")] = 5555
    flower_user: Annotated[str, Field(description="The user name that Flower asks for.")] = "operator"
    flower_password: Annotated[
        SecretStr,
        Field(
            description=f"The password that Flower asks for; in production at least {SHORTEST_FLOWER_PASSWORD} characters."
        ),
    ] = SecretStr(DEFAULT_FLOWER_PASSWORD)
    flower_url_prefix: Annotated[
        str, Field(description="The path under which a proxy serves Flower, such as `flower`.")
    ] = ""

    def list_production_faults(self) -> Iterator[str]:
        """Refuse a password that is known or short."""
        password = self.flower_password.get_secret_value()
        if password == DEFAULT_FLOWER_PASSWORD or len(password) < SHORTEST_FLOWER_PASSWORD:
            yield (
                f"TASKMILL_FLOWER_PASSWORD is the default or shorter than {SHORTEST_FLOWER_PASSWORD} characters: "
                f"set it to a random value, such as {secrets.token_urlsafe(24)}"
            )


class LogSettings(Subject):
    """What is logged, and in which form."""

    title: ClassVar[str] = "Logs"

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="The least severe level that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Field(description="`auto` is `console` on a terminal and `json` elsewhere."),
    ] = "auto"

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


SUBJECTS: tuple[type[Subject], ...] = (
    PlatformSettings,
    StoredSecretSettings,
    SecretSourceSettings,
    DatabaseSettings,
    BrokerSettings,
    StorageSettings,
    MailSettings,
    OutgoingRequestSettings,
    ApiSettings,
    PeopleSettings,
    OidcSettings,
    LimitSettings,
    QuotaSettings,
    AuditSettings,
    WorkerSettings,
    FlowerSettings,
    LogSettings,
)
"""The classes that make up `Settings`, in the order of the documentation."""


class Settings(
    PlatformSettings,
    StoredSecretSettings,
    SecretSourceSettings,
    DatabaseSettings,
    BrokerSettings,
    StorageSettings,
    MailSettings,
    OutgoingRequestSettings,
    ApiSettings,
    PeopleSettings,
    OidcSettings,
    LimitSettings,
    QuotaSettings,
    AuditSettings,
    WorkerSettings,
    FlowerSettings,
    LogSettings,
    BaseSettings,
):
    """All settings. Durations are in seconds and sizes in bytes, as the names of the fields say."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from, in the order of precedence (`shared/setting_sources.py`)."""
        aws = open_aws_source(settings_cls, PREFIX)
        return (init_settings, env_settings, FileSource(settings_cls, PREFIX), *([aws] if aws is not None else []))

    @model_validator(mode="before")
    @classmethod
    def _hide_docs_in_production(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Disable the documentation in production unless it is enabled explicitly."""
        if str(values.get("environment", "")).lower() == "production":
            return {"docs_enabled": False, **values}
        return values

    def refuse_unsafe_production(self) -> None:
        """Raise `ConfigurationError` with every unsafe setting and what to set instead. In development, do nothing."""
        if self.environment != "production":
            return
        if faults := [fault for subject in SUBJECTS for fault in subject.list_production_faults(self)]:
            raise ConfigurationError("Taskmill does not start in production:\n" + "\n".join(f"- {f}" for f in faults))

    def list_warnings(self) -> list[str]:
        """Return warnings for the operator of a production system. In development, the list is empty."""
        if self.environment != "production":
            return []
        return [warning for subject in SUBJECTS for warning in subject.list_production_warnings(self)]


def _parse_conninfo(url: str) -> dict[str, Any]:
    from psycopg.conninfo import conninfo_to_dict

    return dict(conninfo_to_dict(url))


def _find_remote_host(parameters: dict[str, Any]) -> str | None:
    """Return the first host that is not this machine, or None. Sockets and a missing host mean this machine."""
    # libpq reads what a URL leaves out from these variables.
    address = parameters.get("hostaddr") or os.environ.get("PGHOSTADDR")
    hosts = str(address or parameters.get("host") or os.environ.get("PGHOST") or "").split(",")
    return next((host for host in hosts if host and host[0] not in "/@" and host not in LOOPBACK_HOSTS), None)


def read_settings() -> Settings:
    """Return the settings of the environment.

    Raises `ConfigurationError` with each variable that is wrong, and never with its value. A variable whose name is
    almost that of a setting is an error too, because it is probably misspelt and would have no effect.
    """
    from pydantic import ValidationError

    if misspelt := _find_misspelt(os.environ):
        raise ConfigurationError("Some settings are misspelt:\n" + "\n".join(misspelt))
    try:
        settings = Settings()
    except ValidationError as error:
        lines = [f"- {PREFIX}{name_in_environment(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError("Some settings are wrong:\n" + "\n".join(lines)) from None
    settings.refuse_unsafe_production()
    kill_points.arm(settings.environment if "environment" in settings.model_fields_set else None)
    return settings


def _find_misspelt(names: Iterable[str]) -> list[str]:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {name + FILE_SUFFIX for name in known}
    found = []
    for name in sorted(names):
        if name.startswith(PREFIX) and name not in known:
            endings = [setting.removeprefix(PREFIX) for setting in known]
            close = get_close_matches(name.removeprefix(PREFIX), endings, 1, MISSPELLING_SIMILARITY)
            found += [f"- {name} is not a setting: did you mean {PREFIX}{setting}?" for setting in close]
    return found
