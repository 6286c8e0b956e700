"""Statements on signs of life: the rows in which the parts of the platform say that they run."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Select, func, select, text

from shared.tables.schedules import signs_of_life

SHOW_SIGN_OF_LIFE: Final = """
INSERT INTO signs_of_life (part) VALUES (%(part)s) ON CONFLICT (part) DO UPDATE SET at = now()"""
"""Say that a part of the platform lives."""


IS_SILENT: Final = """
SELECT part FROM signs_of_life WHERE part = %(part)s AND at < now() - %(seconds)s * interval '1 second'"""
"""Give a row if a part has shown no sign of life for so long."""


def list_signs_of_life() -> Select[Any]:
    """List (part, age in seconds) of each part that ever showed a sign of life."""
    age = func.extract("epoch", func.now() - signs_of_life.c.at).label("age_seconds")
    return select(signs_of_life.c.part, age)


PING = text("SELECT 1")
"""Ask whether the database answers."""
