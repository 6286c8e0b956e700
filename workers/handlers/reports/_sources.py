"""Uploaded tables as views of DuckDB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from workers.formats.duckdb_sandbox import quote_identifier
from workers.formats.tables import Table, explain_table_error, find_relation

FOLDER = Path("sources")


@dataclass(frozen=True)
class Source:
    """A table that the query can read by a name."""

    name: str
    table: Table


def create_view(connection: duckdb.DuckDBPyConnection, name: str, table: Table) -> Source:
    """Create the view that reads a table under a name.

    Raises `Failed` (`/problems/unreadable-table`) if DuckDB cannot read it.
    """
    try:
        connection.execute(f"CREATE VIEW {quote_identifier(name)} AS FROM {find_relation(connection, table)}")
    except duckdb.Error as error:
        raise explain_table_error(error, table) from error
    return Source(name, table)
