"""What callers read of DuckDB's errors."""

from __future__ import annotations

import duckdb
import pytest

from workers.formats.duckdb_errors import Explanation, explain

ROW = "('secret-one', 99999999999, '2024-13-45', '{secret')"


def explain_failure(expression: str) -> Explanation:
    """Return the explanation of the error with which an expression fails on a row of data."""
    connection = duckdb.connect(config={"errors_as_json": "true"})
    connection.execute(f"CREATE TABLE t AS FROM (VALUES {ROW}) v(name, n, day, json)")
    query = f"SELECT {expression} FROM t"
    with pytest.raises(duckdb.Error) as caught:
        connection.execute(query).fetchall()
    return explain(caught.value, query)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("name::INTEGER", "A value cannot be converted to INTEGER"),
        ("n::TINYINT", "A value cannot be converted to TINYINT"),
        ("n::DECIMAL(3, 1)", "A value cannot be converted to DECIMAL(3,1)"),
        ("name::INTEGER[]", "A value cannot be converted to"),
        ("day::DATE", "A value cannot be converted"),
        ("day::TIMESTAMPTZ", "A value cannot be converted"),
        ("name::UUID", "A value cannot be converted to UUID"),
        ("name::ENUM('a')", "A value cannot be converted to ENUM"),
        ("json::JSON", "A value cannot be converted"),
        ("json->>'a'", "A text that is not valid JSON was read as JSON"),
        ("strptime(name, '%Y')", "Could not parse string … according to format specifier"),
        ("n * 9223372036854775807", "Overflow in multiplication"),
        ("regexp_matches('a', name || '(')", "A function of the query cannot be applied"),
        ("from_hex(name)", "A function of the query cannot be applied"),
        ("error(name)", "A function of the query cannot be applied"),
        ("date_trunc(name, DATE '2020-01-01')", "A value cannot be converted"),
    ],
)
def test_an_error_about_a_value_does_not_quote_it(expression: str, words: str) -> None:
    explanation = explain_failure(expression)

    assert words in explanation.message
    assert "secret" not in explanation.message
    assert "999999" not in explanation.message
    assert "2024" not in explanation.message


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("missing", 'Referenced column "missing" not found'),
        ("upper(n)", "No function matches the given name and argument types 'upper(BIGINT)'"),
        ("error('no more')", "no more"),
    ],
)
def test_an_error_about_the_query_quotes_the_query(expression: str, words: str) -> None:
    assert words in explain_failure(expression).message


@pytest.mark.parametrize("expression", ["name::INTEGER", "n::TINYINT", "missing", "(SELECT i FROM range(2) r(i))"])
def test_no_message_has_advice_about_options_of_duckdb(expression: str) -> None:
    message = explain_failure(expression).message

    assert not any(word in message for word in ("SET ", "sample_size", "Use ", "You can", "LINE 1"))
