"""Reads the functions of the database from `migrations/functions/NAME/REVISION.sql`: NAME as of a revision of the schema.

The file with the highest revision of a function is the one that runs. To change a function, add a file for the new revision;
the files of earlier revisions are never changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FUNCTIONS: Final = Path(__file__).resolve().parents[2] / "migrations" / "functions"


def define_functions(revision: str, *names: str) -> list[str]:
    """Return the statements that create or replace functions, as of a revision, in this order.

    An SQL function must follow those that it calls; the order of PL/pgSQL functions does not matter.
    """
    return [(FUNCTIONS / name / f"{revision}.sql").read_text(encoding="utf-8") for name in names]


def restore_functions(revision: str, *names: str) -> list[str]:
    """Return the statements that undo `define_functions`, in reverse order.

    A function gets the definition that it had before the revision. One that did not exist is dropped.
    """
    statements = []
    for name in reversed(names):
        earlier = [path for path in sorted((FUNCTIONS / name).glob("*.sql")) if path.stem < revision]
        statements.append(earlier[-1].read_text(encoding="utf-8") if earlier else f"DROP FUNCTION {name}")
    return statements
