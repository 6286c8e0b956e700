"""Writes the settings down from their class: `python -m deploy.settings_reference env` or `table`.

The first is `.env.example`, the second the table in README.md; a test holds both files to what is written here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from shared.settings import Settings

LINE_LENGTH = 120

REQUIRED_BY_COMPOSE = frozenset(
    {"secret_key", "smtp_url", "mail_from", "allowed_hosts", "flower_password"},
)
"""What docker-compose.prod.yml refuses to start without; its own variables are in `_COMPOSE_VARIABLES`."""
SET_BY_COMPOSE = frozenset(
    {
        "environment",
        "database_url",
        "broker_url",
        "forwarded_allow_ips",
        "scratch_dir",
        "flower_host",
        "flower_port",
        "flower_url_prefix",
        "log_format",
    }
)
"""What docker-compose.prod.yml decides itself, whatever stands in .env."""

_HEAD = """\
# The settings of Taskmill, each with its default. For docker-compose.prod.yml copy this file to .env, mode 0600, and
# give a value to each line that has none and is no comment: nothing starts without them. Elsewhere these are
# environment variables.
#
# Random values: python3 -c "import secrets; print(secrets.token_hex(32))"
"""

_COMPOSE_VARIABLES = """\

# ---- Of docker-compose.prod.yml alone ----

# The passwords of its Postgres and its Redis. They become part of URLs: letters and digits only. Postgres takes its
# own when its volume is made; later, change it with ALTER ROLE first.
POSTGRES_PASSWORD=
REDIS_PASSWORD=

# The tag of the image that is built and run.
#TASKMILL_VERSION=latest

# How nginx listens (`http`, or `https` with server.crt and server.key in the folder of certificates), and where: both
# ports are published either way. Behind something on this machine that ends TLS: 127.0.0.1:8080 and 127.0.0.1:8443.
#TASKMILL_LISTEN=http
#TASKMILL_HTTP_PORT=80
#TASKMILL_HTTPS_PORT=443
#TASKMILL_CERTIFICATES_DIR=./deploy/nginx/certificates

# The addresses of the network between nginx and the API, whose word on a client's address is believed.
#TASKMILL_FRONT_SUBNET=172.30.84.0/24

# How long a worker may take to stop before it is killed; longer than TASKMILL_SHUTDOWN_GRACE_SECONDS.
#TASKMILL_STOP_GRACE_PERIOD=30s

# The keys of an S3 store, where TASKMILL_STORAGE_URL names one.
#AWS_ACCESS_KEY_ID=
#AWS_SECRET_ACCESS_KEY=
#AWS_REGION=
"""


def env_example() -> str:
    """Give the text of `.env.example`."""
    return (
        _HEAD + "".join(_env_entry(name, field) for name, field in Settings.model_fields.items()) + _COMPOSE_VARIABLES
    )


def markdown_table() -> str:
    """Give the table of settings for README.md, with a newline at its end."""
    rows = ["| setting | default | what it decides |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = default_as_text(field)
        shown = f"`{default}`" if default else ""
        description = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{variable(name)}` | {shown} | {description} |")
    return "\n".join(rows) + "\n"


def variable(name: str) -> str:
    """Give the environment variable of a field."""
    return f"TASKMILL_{name.upper()}"


def default_as_text(field: FieldInfo) -> str:
    """Give the default as it would stand in the environment; nothing for a setting that is unset."""
    default = field.default
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return ",".join(map(str, default))
    if isinstance(default, float) and default.is_integer():
        return str(int(default))
    return "" if default is None else str(default)


def _env_entry(name: str, field: FieldInfo) -> str:
    description = (field.description or "").replace("`", "")
    if name in SET_BY_COMPOSE:
        description += " (docker-compose.prod.yml sets it itself.)"
    comment = "".join(f"# {line}\n" for line in _wrap(description, LINE_LENGTH - 2))
    if name in REQUIRED_BY_COMPOSE:
        return f"\n{comment}{variable(name)}=\n"
    default = default_as_text(field)
    # Blanks and angle brackets are quoted for those who read the file with a shell.
    return f"\n{comment}#{variable(name)}={default if not set(default) & set(' <>') else repr(default)}\n"


def _wrap(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = ""
        line = f"{line} {word}".strip()
    yield line


def main(arguments: list[str]) -> int:
    """Print one of the two and answer the exit code."""
    writers = {"env": env_example, "table": markdown_table}
    if len(arguments) != 1 or arguments[0] not in writers:
        sys.stderr.write("usage: python -m deploy.settings_reference {env,table}\n")
        return 2
    sys.stdout.write(writers[arguments[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
