"""Opens a DuckDB database that can read a few named files and nothing else.

After https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview. DuckDB alone does not contain untrusted
SQL: the limited child bounds memory and time, `_query_check` refuses what no report needs, and this bounds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

SPILL_FOLDER = "spill"


def open_sandbox(
    readable: Sequence[Path], *, memory_bytes: int, spill_bytes: int, threads: int
) -> duckdb.DuckDBPyConnection:
    """Return an empty database in memory that may read these files, and spill into the working folder.

    Extensions, Python's variables and other files are disabled, and the configuration is locked, so that a query cannot
    enable them.
    """
    connection = duckdb.connect(
        config={
            "memory_limit": f"{memory_bytes}B",
            "threads": threads,
            # Each such thread takes 8 MiB of the child's address space for its stack; local files need few.
            "async_threads": threads,
            "temp_directory": SPILL_FOLDER,
            "secret_directory": "secrets",
            "allow_persistent_secrets": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "errors_as_json": "true",
        }
    )
    # DuckDB 2.0 shows this setting when it comes with the configuration, but enforces it only when it is set afterwards.
    connection.execute(f"SET max_temp_directory_size = '{spill_bytes}B'")
    # Otherwise the reader of CSV does the casts of the query: TRY_CAST fails, and casts to text skip the column's type.
    connection.execute("SET disabled_optimizers = 'type_pushdown'")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = true")
    connection.execute("SET enable_progress_bar_print = false")
    connection.execute(f"SET allowed_paths = [{', '.join(quote_literal(str(path)) for path in readable)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def quote_literal(text: str) -> str:
    """Return the SQL literal of a text."""
    return "'" + text.replace("'", "''") + "'"


def quote_identifier(name: str) -> str:
    """Return the SQL identifier of a name."""
    return '"' + name.replace('"', '""') + '"'
