"""Checks whether a part of Taskmill works: `python -m deploy.healthcheck PART`, exit code 0 or 1 and one line that says why.

A check asks more than whether a process runs, and less than whether everything that it needs works:

- `api`: this container's API answers `/health`. It does not fail when Postgres is down: a restart would not help, and
  `/health/ready` reports it.
- `flower`: this container's Flower answers its health check.
- `worker`: a worker of this container has written its sign of life into Postgres within `SILENT_SECONDS`. It does so while
  its consumer's loop turns, so with the broker or the database down every worker is unhealthy: none can do anything.
- `relay`, `beat`: one of them has written its sign of life into Postgres within `SILENT_SECONDS`. Where several run, it
  may have been another one: then one that is stuck does no harm.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

SILENT_SECONDS = 60
TIMEOUT_SECONDS = 4


class Unhealthy(Exception):
    """The part does not work. The message is one line for `docker inspect`, and holds no secret."""


def check_api() -> None:
    """Request `/health` of the API on this machine, with a host name that it allows. Raises `OSError`."""
    allowed_host = os.environ.get("TASKMILL_ALLOWED_HOSTS", "").split(",")[0].strip()
    _get("http://127.0.0.1:8000/health", "localhost" if allowed_host in {"", "*"} else allowed_host)


def check_flower() -> None:
    """Request the health check of Flower on this machine. Raises `OSError`."""
    prefix = os.environ.get("TASKMILL_FLOWER_URL_PREFIX", "").strip("/")
    port = os.environ.get("TASKMILL_FLOWER_PORT", "5555")
    _get(f"http://127.0.0.1:{port}/{prefix + '/' if prefix else ''}healthcheck", "localhost")


def check_worker() -> None:
    """Look up when a worker of this machine last wrote that it consumes. Raises as `check_sign_of_life` does."""
    from shared.queries.signs_of_life import list_worker_signs

    # In a container the machine's name is the container's own.
    _require_recent("the worker", [row.age_seconds for row in _list_rows(list_worker_signs(socket.gethostname()))])


def check_sign_of_life(part: str) -> None:
    """Look up when the part last wrote that it lives. Raises `Unhealthy`, or what the database's driver raises."""
    from shared.queries.signs_of_life import list_signs_of_life

    _require_recent(part, [row.age_seconds for row in _list_rows(list_signs_of_life()) if row.part == part])


def _list_rows(statement: Any) -> Sequence[Any]:
    from shared.database.connections import make_engine
    from shared.settings import Settings

    engine = make_engine(Settings(), "healthcheck", pool_size=1, timeout_seconds=TIMEOUT_SECONDS)
    try:
        with engine.connect() as connection:
            return connection.execute(statement).all()
    finally:
        engine.dispose()


def _require_recent(part: str, ages_seconds: list[float]) -> None:
    youngest = min(ages_seconds, default=None)
    if youngest is None or youngest > SILENT_SECONDS:
        silence = "never wrote one" if youngest is None else f"wrote the last one {youngest:.0f} seconds ago"
        raise Unhealthy(f"{part} must write a sign of life every few seconds, and {silence}")


CHECKS: dict[str, Callable[[], None]] = {
    "api": check_api,
    "flower": check_flower,
    "worker": check_worker,
    "relay": lambda: check_sign_of_life("relay"),
    "beat": lambda: check_sign_of_life("beat"),
}


def main(arguments: list[str]) -> int:
    """Check the part that is named, and return the exit code."""
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        sys.stderr.write(f"usage: python -m deploy.healthcheck {{{','.join(CHECKS)}}}\n")
        return 2
    try:
        CHECKS[arguments[0]]()
    except Unhealthy as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception as error:
        # Whatever the error was, the check did not succeed. The text of an error may contain a URL with a password.
        sys.stderr.write(f"the check of {arguments[0]} failed: {type(error).__name__}\n")
        return 1
    return 0


def _get(url: str, host: str) -> None:
    request = urllib.request.Request(url, headers={"Host": host})  # noqa: S310 - the scheme is written above
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - the scheme is written above
        answer.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
