"""Hostile queries, against the check and the sandbox, the sandbox alone, and a whole report."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from shared.contracts.reports.run import RunParams
from workers.adapters.memory_context import MemoryContext
from workers.formats.duckdb_sandbox import open_sandbox
from workers.handlers.reports._limits import ReportLimits
from workers.handlers.reports._query_check import check_query
from workers.handlers.reports._query_errors import explain_query_error
from workers.handlers.reports.run import handle
from workers.outcomes import Failed

SECRET = "the-secret-of-the-server"

ESCAPES = [
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_csv('/etc/passwd', delim=':', header=false)",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM read_json_objects('{secret}')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM glob('*')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_text('sources/../../inputs/secret')",
    "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "SELECT * FROM 'https://example.invalid/x.parquet'",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT getenv('HOME')",
    "COPY (SELECT 1) TO '{out}'",
    "COPY t FROM '{secret}'",
    "WITH x AS (COPY t TO '{out}') SELECT 1",
    "EXPORT DATABASE '{out}'",
    "ATTACH '{out}' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CALL enable_logging(storage = 'file', storage_path = '{out}')",
    "SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = '{out}')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query_table('{secret}')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM pg_settings",
    "SELECT * FROM duckdb_secrets()",
    "SELECT current_setting('temp_directory')",
    "SHOW allowed_paths",
    "SELECT * FROM connection",
    "SELECT * FROM request",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM read_text('{secret}'))",
    "WITH a AS (SELECT (SELECT content FROM read_text('{secret}'))) FROM a",
]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "attempt" / "inputs" / "secret"
    path.parent.mkdir(parents=True)
    path.write_text(f"a\n{SECRET}\n")
    return path


@pytest.mark.parametrize("escape", ESCAPES)
def test_the_check_and_the_sandbox_refuse_every_escape(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, escape: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a\n1\n")
    out = tmp_path / "out"
    query = escape.format(secret=secret, out=out)
    with open_sandbox([Path("t.csv")], memory_bytes=1 << 30, spill_bytes=1 << 30, threads=2) as connection:
        connection.execute("CREATE VIEW t AS FROM read_csv('t.csv')")

        with pytest.raises(Failed) as caught:
            try:
                check_query(connection, query, ["t"])
                connection.execute(query).fetchall()
            except duckdb.Error as error:
                raise explain_query_error(error, query, [], ReportLimits()) from error

    assert caught.value.type == "/problems/invalid-query"
    assert SECRET not in str(caught.value)
    assert "root:" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    "escape", ["SELECT * FROM read_text('{secret}')", "COPY (SELECT 1) TO '{out}'", "SELECT * FROM '{secret}'"]
)
def test_a_report_cannot_leave_the_sandbox(tmp_path: Path, secret: Path, escape: str) -> None:
    context = MemoryContext(tmp_path / "attempt")
    out = tmp_path / "out"
    params = RunParams.model_validate(
        {
            "sources": [{"name": "t", "file_id": context.add_input(b"a\n1\n", "t", "text/csv")}],
            "query": escape.format(secret=secret, out=out),
        }
    )

    with pytest.raises(Failed) as caught:
        handle(params, context)

    assert caught.value.type == "/problems/invalid-query"
    assert SECRET not in str(caught.value)
    assert not out.exists()
    assert context.artifacts == []


@pytest.mark.parametrize(
    "escape",
    [
        *(escape for escape in ESCAPES if "{secret}" in escape or "{out}" in escape or "://" in escape),
        "SET enable_external_access = true",
        "SET allowed_paths = ['/etc/passwd']",
        "RESET lock_configuration",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM read_text('/etc/passwd')",
        "FROM '/etc/passwd'",
        "LOAD httpfs",
        "INSTALL httpfs",
        "SELECT * FROM local_variable",
    ],
)
def test_the_sandbox_holds_without_the_check_of_the_query(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, escape: str
) -> None:
    local_variable = [1, 2, 3]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a\n1\n")
    out = tmp_path / "out"
    with open_sandbox([Path("t.csv")], memory_bytes=1 << 30, spill_bytes=1 << 30, threads=2) as connection:
        connection.execute("CREATE VIEW t AS FROM read_csv('t.csv')")

        with pytest.raises(duckdb.Error) as caught:
            connection.execute(escape.format(secret=secret, out=out)).fetchall()

        assert connection.execute("SELECT sum(a) FROM t").fetchall() == [(1,)]
    assert local_variable
    assert SECRET not in str(caught.value)
    assert not out.exists()
