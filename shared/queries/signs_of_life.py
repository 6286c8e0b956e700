"""Statements on signs of life: the rows by which parts of the platform show that they run."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Select, func, select, text

from shared.tables.schedules import signs_of_life

SHOW_SIGN_OF_LIFE: Final = """
INSERT INTO signs_of_life (part) VALUES (%(part)s) ON CONFLICT (part) DO UPDATE SET at = now()"""
"""Insert or update the sign of life of a part of the platform."""


SHOW_WORKER_SIGN: Final = """
INSERT INTO signs_of_life (part, details) VALUES (%(part)s, %(details)s::jsonb)
ON CONFLICT (part) DO UPDATE SET at = now(), details = excluded.details"""
"""Insert or update the sign of life of a worker process, with its queues, its slots and its version."""


IS_SILENT: Final = """
SELECT part FROM signs_of_life WHERE part = %(part)s AND at < now() - %(seconds)s * interval '1 second'"""
"""Return a row if the last sign of life of a part is older than `seconds`."""


WORKER_PREFIX: Final = "worker:"
"""The prefix of `part` in the sign of life of a worker process. The name of the worker follows, as `<name>@<host>`."""

FORGET_SIGN_OF_LIFE: Final = f"""
DELETE FROM signs_of_life
WHERE part = %(part)s OR (starts_with(part, '{WORKER_PREFIX}') AND at < now() - interval '1 day')"""
"""Delete the sign of life of a worker process that stops, and those of worker processes that are older than a day."""


def list_signs_of_life() -> Select[Any]:
    """List (part, age in seconds) of the relay, the sweeper and beat. A part that never ran has no row."""
    age = func.extract("epoch", func.now() - signs_of_life.c.at).label("age_seconds")
    return select(signs_of_life.c.part, age).where(~signs_of_life.c.part.startswith(WORKER_PREFIX))


def list_worker_signs(host: str) -> Select[Any]:
    """List the age in seconds of the sign of life of each worker process on a host."""
    age = func.extract("epoch", func.now() - signs_of_life.c.at).label("age_seconds")
    part = signs_of_life.c.part
    return select(age).where(part.startswith(WORKER_PREFIX), part.endswith(f"@{host}", autoescape=True))


PING = text("SELECT 1")
"""Return 1, if the database answers."""
