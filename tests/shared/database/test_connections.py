"""Connections to Postgres: what their errors say."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from shared.database.connections import OutageLog, connect_hot, make_async_engine, make_engine
from shared.settings import Settings

FAILING = text("SELECT 1 / 0 FROM (SELECT :address AS address) AS a WHERE address <> ''")
PARAMETERS = {"address": "ada@example.com"}


FORMS = (
    "host={host} port={port} user={user} password={password} dbname={dbname}",
    "postgresql:///{dbname}?host={host}&port={port}&user={user}&password={password}",
    "postgresql://{user}:{password}@{host}:1,{host}:{port}/{dbname}",
    "postgres://{user}:{password}@{host}:{port}/{dbname}?sslmode=prefer",
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_libpq_names_the_database(settings: Settings, form: str) -> None:
    known = {"password": "none", **conninfo_to_dict(settings.database_url)}
    settings = settings.model_copy(update={"database_url": form.format(**known)})
    name = text("SELECT current_database(), current_setting('application_name')")

    async def ask() -> tuple[Any, ...]:
        engine = make_async_engine(settings, "test")
        try:
            async with engine.connect() as connection:
                return tuple((await connection.execute(name)).one())
        finally:
            await engine.dispose()

    engine = make_engine(settings, "test")
    with engine.connect() as connection:
        assert tuple(connection.execute(name).one()) == (known["dbname"], "taskmill-test")
    engine.dispose()
    assert asyncio.run(ask()) == (known["dbname"], "taskmill-test")


def test_an_error_does_not_say_what_its_statement_was_about(settings: Settings) -> None:
    engine = make_engine(settings, "test")
    with engine.connect() as connection, pytest.raises(DBAPIError) as failed:
        connection.execute(FAILING, PARAMETERS)
    engine.dispose()

    assert "division by zero" in str(failed.value)
    assert "ada@example.com" not in str(failed.value)


def test_nor_does_one_of_the_apis(settings: Settings) -> None:
    async def fail() -> None:
        engine = make_async_engine(settings, "test")
        try:
            async with engine.connect() as connection:
                await connection.execute(FAILING, PARAMETERS)
        finally:
            await engine.dispose()

    with pytest.raises(DBAPIError) as failed:
        asyncio.run(fail())

    assert "division by zero" in str(failed.value)
    assert "ada@example.com" not in str(failed.value)


def test_an_outage_is_told_once_with_its_reason_and_without_a_password(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"database_url": "postgresql://taskmill:s3cret@127.0.0.1:1/nothing"})
    outage = OutageLog()

    with capture_logs() as told:
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError) as failed:
                connect_hot(nowhere, "test")
            outage.warn(failed.value)
        outage.warn(psycopg.errors.UniqueViolation("ada@example.com is there already"))

    assert [(entry["event"], entry["log_level"]) for entry in told] == [("database_away", "warning")] * 2
    assert "127.0.0.1" in told[0]["reason"] and "refused" in told[0]["reason"]
    assert told[1]["reason"] == "UniqueViolation"
    assert "s3cret" not in str(told)


def test_an_outage_that_lasts_is_told_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outage, error = OutageLog(), psycopg.OperationalError("it is gone")
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])

    with capture_logs() as told:
        for clock["now"] in (1000.0, 1029.0, 1031.0):
            outage.warn(error)

    assert len(told) == 2
