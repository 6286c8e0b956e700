"""Generate the documentation of the settings from their classes: `python -m deploy.settings_reference env` or `table`.

`env` prints `.env.example`, and `table` prints the table of README.md. A test compares both files with the output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from shared.settings import PREFIX, SUBJECTS

LINE_LENGTH = 120

REQUIRED_BY_COMPOSE = frozenset(
    {"secret_key", "smtp_url", "mail_from", "allowed_hosts", "flower_password"},
)
"""The settings without which docker-compose.prod.yml does not start; `_COMPOSE_VARIABLES` has its own variables."""
SET_BY_COMPOSE = frozenset(
    {
        "environment",
        "database_url",
        "database_owner_url",
        "broker_url",
        "forwarded_allow_ips",
        "scratch_dir",
        "flower_host",
        "flower_port",
        "flower_url_prefix",
        "log_format",
    }
)
"""The settings that docker-compose.prod.yml sets itself; their values in .env have no effect on it."""

_SHELL_SPECIAL = frozenset(" \t<>&|;()$`\\\"'*?[]#~!{}")

_HEAD = """\
# The settings of Taskmill, each with its default.
#
# With Docker Compose: copy this file to .env (mode 0600) and fill in each line that is not a comment; nothing starts
# while one of them is empty. Without it: the same, set TASKMILL_ENVIRONMENT=production, and load the file with a shell
# (set -a; . ./.env) or as EnvironmentFile= of systemd.
#
# A value with a space or one of < > & ; $ # belongs in single quotes, which Compose, shells and systemd all understand.
# Random values: python3 -c "import secrets; print(secrets.token_hex(32))"
"""

_COMPOSE_VARIABLES = """\

# ---- Variables of docker-compose.prod.yml only ----

# The passwords of its Postgres (of the role that owns the tables, and of the role of the running parts) and of its
# Redis. They become parts of URLs: use letters and digits only. Postgres takes the first when its volume is made; to
# change it later, use ALTER ROLE first. `taskmill migrate` sets the second at each start.
POSTGRES_PASSWORD=
POSTGRES_APP_PASSWORD=
REDIS_PASSWORD=

# The tag of the image that is built and run.
#TASKMILL_VERSION=latest

# How nginx listens: http, or https with server.crt and server.key in the folder of certificates. Both ports are
# published in either case. Behind a TLS proxy on this machine use 127.0.0.1:8080 and 127.0.0.1:8443.
#TASKMILL_LISTEN=http
#TASKMILL_HTTP_PORT=80
#TASKMILL_HTTPS_PORT=443
#TASKMILL_CERTIFICATES_DIR=./deploy/nginx/certificates

# The network between nginx and the API. The API trusts the client addresses that it gets from there.
#TASKMILL_FRONT_SUBNET=172.30.84.0/24

# How long a worker may take to stop before it is killed; longer than TASKMILL_SHUTDOWN_GRACE_SECONDS.
#TASKMILL_STOP_GRACE_PERIOD=30s

# The keys of an S3 store, if TASKMILL_STORAGE_URL names one.
#AWS_ACCESS_KEY_ID=
#AWS_SECRET_ACCESS_KEY=
#AWS_REGION=
"""


def env_example() -> str:
    """Return the text of `.env.example`."""
    entries = []
    for subject in SUBJECTS:
        entries.append(f"\n# ---- {subject.title} ----\n")
        entries += [_env_entry(name, field) for name, field in subject.model_fields.items()]
    return _HEAD + "".join(entries) + _COMPOSE_VARIABLES


def markdown_table() -> str:
    """Return the table of settings for README.md, with a newline at its end."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for subject in SUBJECTS:
        rows.append(f"| **{subject.title}** | | |")
        for name, field in subject.model_fields.items():
            default = default_as_text(field)
            shown = f"`{default}`" if default else ""
            description = (field.description or "").replace("|", "\\|")
            rows.append(f"| `{variable(name)}` | {shown} | {description} |")
    return "\n".join(rows) + "\n"


def variable(name: str) -> str:
    """Return the environment variable of a field."""
    return f"{PREFIX}{name.upper()}"


def default_as_text(field: FieldInfo) -> str:
    """Return the default as the environment would have it; an empty text for a setting that is unset."""
    default = field.default
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, BaseModel):
        return default.model_dump_json(exclude_unset=True)
    if isinstance(default, list):
        return ",".join(map(str, default))
    if isinstance(default, float) and default.is_integer():
        return str(int(default))
    return "" if default is None else str(default)


def _env_entry(name: str, field: FieldInfo) -> str:
    description = (field.description or "").replace("`", "")
    if name in SET_BY_COMPOSE:
        description += " (docker-compose.prod.yml sets it.)"
    comment = "".join(f"# {line}\n" for line in _wrap(description, LINE_LENGTH - 2))
    if name in REQUIRED_BY_COMPOSE:
        return f"\n{comment}{variable(name)}=\n"
    default = default_as_text(field)
    # A shell, too, must read the line without its comment sign.
    return f"\n{comment}#{variable(name)}={default if not set(default) & _SHELL_SPECIAL else repr(default)}\n"


def _wrap(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = ""
        line = f"{line} {word}".strip()
    yield line


def main(arguments: list[str]) -> int:
    """Print one of the two and return the exit code."""
    writers = {"env": env_example, "table": markdown_table}
    if len(arguments) != 1 or arguments[0] not in writers:
        sys.stderr.write("usage: python -m deploy.settings_reference {env,table}\n")
        return 2
    sys.stdout.write(writers[arguments[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
