"""Refuses every query that is not exactly one SELECT over the sources.

The sandbox would stop most others too; here they are refused before anything runs, with a message that helps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from workers.handlers.reports import _problems
from workers.handlers.reports._query_errors import find_line_and_column
from workers.outcomes import Failed

QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""The nodes of a syntax tree that only read. `WITH x AS (INSERT …)` and `WITH x AS (COPY …)` have others."""

TABLE_FUNCTIONS = frozenset(
    {
        "generate_series",
        "histogram",
        "histogram_values",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "pg_timezone_names",
        "range",
        "repeat",
        "repeat_row",
        "unnest",
    }
)
"""Table functions that make rows of their arguments. Others read files, settings or memory, or run further SQL."""

REFUSED_FUNCTIONS = frozenset({"current_setting", "getenv", "write_log"})

NOWHERE = (1 << 64) - 1
DEEPEST_TREE = 12_000
"""DuckDB refuses expressions deeper than 1,000; each level is a few levels of JSON."""


def check_query(connection: duckdb.DuckDBPyConnection, query: str, sources: Sequence[str]) -> None:
    """Raise `/problems/invalid-query` unless the query is exactly one SELECT over the sources.

    Raises `duckdb.Error` for what DuckDB cannot parse.
    """
    statements = connection.extract_statements(query)
    if not statements:
        raise _problems.invalid_query("The query is empty: one SELECT statement is needed.")
    if len(statements) > 1:
        raise _problems.invalid_query(f"The query must be exactly one statement; it has {len(statements)}.")
    kind = statements[0].type.name
    if kind == "MULTI":
        raise _problems.invalid_query("PIVOT must list its values, as in PIVOT t ON year IN (2007, 2008) USING sum(x).")
    if kind != "SELECT":
        raise _problems.invalid_query(f"The query must be a SELECT statement; this is {kind}.")
    if statements[0].named_parameters:
        raise _problems.invalid_query("The query has a parameter (? or $1), for which there is no value.")
    _check_tree(_parse(connection, query), query, sources)


def _parse(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()
    assert row is not None
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, DEEPEST_TREE))
    try:
        tree = json.loads(row[0])
    except RecursionError as error:
        raise _problems.invalid_query("The query is nested too deeply.") from error
    finally:
        sys.setrecursionlimit(limit)
    if tree["error"]:
        raise _problems.invalid_query("The query must be a SELECT statement.")
    return tree


@dataclass(frozen=True)
class _Scope:
    """The names that WITH defines and that are visible in a part of the query, in lower case."""

    names: frozenset[str] = frozenset()
    recurring: frozenset[str] = frozenset()
    """Those of recursive queries, which find their own tables in the schema `recurring`."""

    def extend(self, name: str, *, recurring: bool = False) -> _Scope:
        """Return this scope with another name."""
        added = frozenset({name.lower()})
        return _Scope(self.names | added, self.recurring | added if recurring else self.recurring)


def _check_tree(tree: Any, query: str, sources: Sequence[str]) -> None:
    for node, scope in _walk(tree):
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in QUERY_NODES:
            raise _refused(node, query, "The query must only read: it contains a statement that writes.")
        if kind == "BASE_TABLE":
            if not _is_readable(node, scope, sources):
                raise _refused(node, query, _no_such_source(node["table_name"], sources))
        elif kind == "SHOW_REF":
            name = node["table_name"].strip('"')
            if node["query"] is None and not _is_source(name, sources) and name.lower() != "tables":
                raise _refused(node, query, _no_such_source(name, sources))
        elif kind == "TABLE_FUNCTION":
            name = node["function"].get("function_name", "")
            if name.lower() not in TABLE_FUNCTIONS:
                raise _refused(
                    node, query, f'The table function "{name}" is not available: a query reads its sources by name.'
                )
        elif node.get("class") == "FUNCTION" and node["function_name"].lower() in REFUSED_FUNCTIONS:
            raise _refused(node, query, f'The function "{node["function_name"]}" is not available.')


def _is_readable(table: dict[str, Any], scope: _Scope, sources: Sequence[str]) -> bool:
    """Return whether a table is a source, or a query that WITH defines and that is visible there.

    A name with a schema is never that of a WITH, except in `recurring`.
    """
    name, schema, catalog = (table[key].lower() for key in ("table_name", "schema_name", "catalog_name"))
    if schema == "recurring":
        return not catalog and name in scope.recurring
    if not schema and not catalog and name in scope.names:
        return True
    return schema in ("", "main") and catalog in ("", "memory") and _is_source(name, sources)


def _is_source(name: str, sources: Sequence[str]) -> bool:
    return name.lower() in {source.lower() for source in sources}


def _walk(tree: Any) -> Iterator[tuple[dict[str, Any], _Scope]]:
    """Yield every object of the tree with the names that are visible in it, without recursion: queries are deep."""
    pending = [(tree, _Scope())]
    while pending:
        item, scope = pending.pop()
        if isinstance(item, list):
            pending.extend((inner, scope) for inner in item)
        elif isinstance(item, dict):
            definitions = item.get("cte_map")
            if isinstance(definitions, dict):
                for entry in definitions["map"]:
                    # A query of WITH sees those before it, and itself if it is recursive.
                    name, query = entry["key"], entry["value"]
                    recurring = query["query_node"]["type"] == "RECURSIVE_CTE_NODE"
                    pending.append((query, scope.extend(name, recurring=True) if recurring else scope))
                    scope = scope.extend(name)
            yield item, scope
            pending.extend((inner, scope) for key, inner in item.items() if key != "cte_map")


def _no_such_source(name: str, sources: Sequence[str]) -> str:
    return f'There is no source named "{name[:100]}". The sources are: {", ".join(sources)}.'


def _refused(node: dict[str, Any], query: str, detail: str) -> Failed:
    position = node.get("query_location", NOWHERE)
    if position == NOWHERE:
        return _problems.invalid_query(detail)
    return _problems.invalid_query(detail, *find_line_and_column(query, position))
