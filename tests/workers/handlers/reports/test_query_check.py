"""Which queries are refused before they run."""

from __future__ import annotations

import duckdb
import pytest

from workers.handlers.reports._query_check import check_query
from workers.outcomes import Failed


def check(query: str) -> None:
    """Check a query over the sources `t` and `penguins`."""
    check_query(duckdb.connect(), query, ["t", "penguins"])


@pytest.mark.parametrize(
    "query",
    [
        "WITH a AS (SELECT 1), b AS (FROM a) SELECT * FROM A, b",
        "WITH a AS (SELECT 1) SELECT (SELECT count(*) FROM a), * FROM (WITH b AS (FROM a) FROM b)",
        "WITH a AS (SELECT 1) SELECT * FROM t, LATERAL (FROM a)",
        "WITH a AS (SELECT 1) FROM a UNION ALL (WITH b AS (FROM a) FROM b) ORDER BY (SELECT count(*) FROM a)",
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 3), b AS (FROM r) FROM b",
        "WITH RECURSIVE r(k, v) USING KEY (k) AS (SELECT 1, 2 UNION SELECT k, v FROM recurring.r) FROM r",
        "WITH t AS (SELECT * FROM t WHERE false) FROM t",
        "WITH pg_settings AS (SELECT 1) FROM pg_settings",
        "SELECT * FROM main.t, memory.main.penguins, T",
        "DESCRIBE t",
        "SUMMARIZE t",
        "SHOW TABLES",
        "VALUES (1)",
        "FROM t",
        "SELECT 1; -- and a comment",
        "SELECT i FROM range(3) r(i) UNION ALL SELECT unnest([1, 2])",
        "SELECT a.x FROM main.t a, LATERAL (SELECT a.y) b LIMIT 1",
        "PIVOT t ON year IN (2007, 2008) USING count(*)",
    ],
)
def test_a_query_may_read_its_sources_and_what_it_defines(query: str) -> None:
    check(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM (WITH pg_settings AS (SELECT 1) FROM pg_settings), pg_settings",
        "SELECT * FROM pg_settings, (WITH pg_settings AS (SELECT 1) FROM pg_settings)",
        "(WITH pg_settings AS (SELECT 1) FROM pg_settings) UNION ALL FROM pg_settings",
        "WITH a AS (WITH pg_settings AS (SELECT 1) FROM pg_settings) SELECT * FROM a, pg_settings",
        "WITH a AS (FROM pg_settings), pg_settings AS (SELECT 1) FROM a",
        "WITH pg_settings AS (FROM pg_settings) FROM pg_settings",
        "WITH a AS (SELECT 1 WHERE EXISTS (FROM pg_settings)) SELECT * FROM (WITH pg_settings AS (FROM a) FROM a)",
        "WITH pg_settings AS (SELECT 1) FROM main.pg_settings",
        "WITH pg_settings AS (SELECT 1) FROM system.main.pg_settings",
        "WITH pg_settings AS (SELECT 1) FROM recurring.pg_settings",
        "FROM system.main.t",
        "FROM information_schema.t",
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i FROM r) SELECT * FROM r, recurring.r",
    ],
)
def test_a_name_of_with_hides_no_table_outside_of_its_scope(query: str) -> None:
    with pytest.raises(Failed, match="There is no source named") as caught:
        check(query)

    assert caught.value.type == "/problems/invalid-query"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT 1; SELECT 2", "exactly one statement"),
        (";", "empty"),
        (" ;; ", "empty"),
        ("-- nothing but this", "empty"),
        ("/* nothing */", "empty"),
        ("INSERT INTO t VALUES (1)", "this is INSERT"),
        ("CREATE TABLE u AS FROM t", "this is CREATE"),
        ("DROP VIEW t", "this is DROP"),
        ("EXPLAIN SELECT 1", "this is EXPLAIN"),
        ("PIVOT t ON year USING count(*)", "PIVOT must list its values"),
        ("SELECT ?", "parameter"),
        ("SELECT $name", "parameter"),
    ],
)
def test_a_query_that_is_no_single_select_is_refused(query: str, words: str) -> None:
    with pytest.raises(Failed, match=words) as caught:
        check(query)

    assert caught.value.type == "/problems/invalid-query"
