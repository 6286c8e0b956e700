"""Refuses what is not exactly one SELECT over the sources.

The sandbox would stop most of it too; here it is refused before anything runs, with words that help.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from workers.handlers.reports import _problems
from workers.handlers.reports._query_errors import find_line_and_column
from workers.outcomes import Failed

QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""The nodes of a syntax tree that only read; `WITH x AS (INSERT …)` and `WITH x AS (COPY …)` have others."""

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
"""Those that make rows of their arguments. The others read files, settings, memory, or run further SQL."""

REFUSED_FUNCTIONS = frozenset({"current_setting", "getenv", "write_log"})

SCHEMAS = frozenset({"", "main", "recurring"})
"""`recurring` is where a recursive query with `USING KEY` finds its own table."""

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
        raise _problems.invalid_query(f"The query must be exactly one statement; it holds {len(statements)}.")
    kind = statements[0].type.name
    if kind == "MULTI":
        raise _problems.invalid_query(
            "PIVOT must list its values here, as in PIVOT t ON year IN (2007, 2008) USING sum(x)."
        )
    if kind != "SELECT":
        raise _problems.invalid_query(f"The query must be a SELECT statement; this is {kind}.")
    if statements[0].named_parameters:
        raise _problems.invalid_query("The query holds a parameter (? or $1), for which there is no value.")
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


def _check_tree(tree: Any, query: str, sources: Sequence[str]) -> None:
    nodes = list(_walk(tree))
    tables = {name.lower() for name in sources}
    readable = tables | {name.lower() for node in nodes for name in _defined_names(node)}
    for node in nodes:
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in QUERY_NODES:
            raise _refused(node, query, "The query must only read: it holds a statement that writes.")
        if kind == "BASE_TABLE":
            name, schema = node["table_name"], node["schema_name"].lower()
            if name.lower() not in readable or schema not in SCHEMAS:
                raise _refused(node, query, _no_such_source(name, sources))
        elif kind == "SHOW_REF":
            name = node["table_name"].strip('"')
            if node["query"] is None and name.lower() not in tables | {"tables"}:
                raise _refused(node, query, _no_such_source(name, sources))
        elif kind == "TABLE_FUNCTION":
            name = node["function"].get("function_name", "")
            if name.lower() not in TABLE_FUNCTIONS:
                raise _refused(
                    node, query, f'The table function "{name}" is not available: a query reads its sources by name.'
                )
        elif node.get("class") == "FUNCTION" and node["function_name"].lower() in REFUSED_FUNCTIONS:
            raise _refused(node, query, f'The function "{node["function_name"]}" is not available.')


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Give every object of the tree, without recursion: queries are deep."""
    pending = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _defined_names(node: dict[str, Any]) -> Iterator[str]:
    """Give the names that a node's WITH defines, wherever they are visible: what they hide is for DuckDB to say."""
    cte_map = node.get("cte_map")
    if isinstance(cte_map, dict):
        yield from (entry["key"] for entry in cte_map["map"])


def _no_such_source(name: str, sources: Sequence[str]) -> str:
    return f'There is no source named "{name[:100]}". The sources are: {", ".join(sources)}.'


def _refused(node: dict[str, Any], query: str, detail: str) -> Failed:
    position = node.get("query_location", NOWHERE)
    if position == NOWHERE:
        return _problems.invalid_query(detail)
    return _problems.invalid_query(detail, *find_line_and_column(query, position))
