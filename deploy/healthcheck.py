"""Says whether a part of Taskmill works: `python -m deploy.healthcheck PART`, exit code 0 or 1 and one line why.

What is asked is more than whether a process lives, and less than whether all that it stands on does:

- `api`: this container's API answers `/health`. Postgres being down is not its fault, a restart would not help it, and
  `/health/ready` tells of it.
- `flower`: this container's Flower answers its health check.
- `worker`: the worker of this container answers over the broker, so its main loop turns and it hears what is rung. With
  the broker down every worker is unhealthy, as none of them can do anything.
- `relay`, `beat`: one of them has written its sign of life into Postgres within `SILENT_SECONDS`. It may have been another
  one, where several run: then one being stuck harms no one.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from collections.abc import Callable

SILENT_SECONDS = 60
PATIENCE_SECONDS = 4


class Unhealthy(Exception):
    """The part does not work. The message is one line for `docker inspect`, and holds no secret."""


def check_api() -> None:
    """Ask the API on this machine under a name that it answers to. Raises `OSError`."""
    allowed_host = os.environ.get("TASKMILL_ALLOWED_HOSTS", "").split(",")[0].strip()
    _get("http://127.0.0.1:8000/health", "localhost" if allowed_host in {"", "*"} else allowed_host)


def check_flower() -> None:
    """Ask Flower on this machine. Raises `OSError`."""
    prefix = os.environ.get("TASKMILL_FLOWER_URL_PREFIX", "").strip("/")
    port = os.environ.get("TASKMILL_FLOWER_PORT", "5555")
    _get(f"http://127.0.0.1:{port}/{prefix + '/' if prefix else ''}healthcheck", "localhost")


def check_worker() -> None:
    """Ping this machine's worker through the broker. Raises `Unhealthy`, or what the broker's client raises."""
    from celery import Celery

    from shared.settings import Settings

    app = Celery(broker=Settings().broker_url, set_as_current=False)
    app.conf.broker_transport_options = {
        "socket_connect_timeout": PATIENCE_SECONDS,
        "socket_timeout": PATIENCE_SECONDS,
        "max_retries": 0,
    }
    # A worker's name ends with its machine's, which in a container is the container's own.
    with app.connection_for_write(connect_timeout=PATIENCE_SECONDS) as connection:
        connection.ensure_connection(max_retries=1, timeout=PATIENCE_SECONDS)
        answers = app.control.broadcast(
            "ping",
            connection=connection,
            reply=True,
            pattern=f"*@{socket.gethostname()}",
            matcher="glob",
            timeout=PATIENCE_SECONDS,
            limit=1,
        )
    if not answers:
        raise Unhealthy("the worker does not answer a ping")


def check_sign_of_life(part: str) -> None:
    """Look up when the part last wrote that it lives. Raises `Unhealthy`, or what the database's driver raises."""
    from shared.database.connections import make_engine
    from shared.queries.signs_of_life import list_signs_of_life
    from shared.settings import Settings

    engine = make_engine(Settings(), "healthcheck", pool_size=1, timeout_seconds=PATIENCE_SECONDS)
    with engine.connect() as connection:
        ages = {row.part: float(row.age_seconds) for row in connection.execute(list_signs_of_life())}
    engine.dispose()
    seconds = ages.get(part)
    if seconds is None or seconds > SILENT_SECONDS:
        silence = "never gave one" if seconds is None else f"gave the last one {seconds:.0f} seconds ago"
        raise Unhealthy(f"{part} is to give a sign of life every few seconds, and {silence}")


CHECKS: dict[str, Callable[[], None]] = {
    "api": check_api,
    "flower": check_flower,
    "worker": check_worker,
    "relay": lambda: check_sign_of_life("relay"),
    "beat": lambda: check_sign_of_life("beat"),
}


def main(arguments: list[str]) -> int:
    """Check the part named and answer the exit code."""
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        sys.stderr.write(f"usage: python -m deploy.healthcheck {{{','.join(CHECKS)}}}\n")
        return 2
    try:
        CHECKS[arguments[0]]()
    except Unhealthy as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception as error:
        # Whatever went wrong, the part could not be seen to work. An error's own words may hold a URL with a password.
        sys.stderr.write(f"the check of {arguments[0]} failed: {type(error).__name__}\n")
        return 1
    return 0


def _get(url: str, host: str) -> None:
    request = urllib.request.Request(url, headers={"Host": host})  # noqa: S310 - the scheme is written above
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - the scheme is written above
        answer.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
