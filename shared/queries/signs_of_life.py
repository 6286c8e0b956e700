"""Statements on signs of life: the rows in which the parts of the platform say that they run."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Select, func, select, text

from shared.tables.schedules import signs_of_life

SHOW_SIGN_OF_LIFE: Final = """
INSERT INTO signs_of_life (part) VALUES (%(part)s) ON CONFLICT (part) DO UPDATE SET at = now()"""
"""Write the sign of life of a part of the platform."""


IS_SILENT: Final = """
SELECT part FROM signs_of_life WHERE part = %(part)s AND at < now() - %(seconds)s * interval '1 second'"""
"""Return a row if a part has shown no sign of life for so long."""


WORKER_PREFIX: Final = "worker:"
"""What the name of a worker process's sign of life begins with. The worker's own name follows; it ends with its host's."""

FORGET_SIGN_OF_LIFE: Final = f"""
DELETE FROM signs_of_life
WHERE part = %(part)s OR (starts_with(part, '{WORKER_PREFIX}') AND at < now() - interval '1 day')"""
"""Delete the sign of life of a worker process that ends, and of those that ended a day ago without doing so."""


def list_signs_of_life() -> Select[Any]:
    """List (part, age in seconds) of the relay, the sweeper and beat, as far as they ever showed a sign of life."""
    age = func.extract("epoch", func.now() - signs_of_life.c.at).label("age_seconds")
    return select(signs_of_life.c.part, age).where(~signs_of_life.c.part.startswith(WORKER_PREFIX))


def list_worker_signs(host: str) -> Select[Any]:
    """List the age in seconds of the sign of life of each worker process on a host."""
    age = func.extract("epoch", func.now() - signs_of_life.c.at).label("age_seconds")
    part = signs_of_life.c.part
    return select(age).where(part.startswith(WORKER_PREFIX), part.endswith(f"@{host}", autoescape=True))


PING = text("SELECT 1")
"""Return 1, if the database answers."""
