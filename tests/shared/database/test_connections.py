"""Connections to Postgres: what their errors say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.database.connections import make_async_engine, make_engine
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


def test_an_error_of_the_sync_engine_contains_no_parameters(settings: Settings) -> None:
    engine = make_engine(settings, "test")
    with engine.connect() as connection, pytest.raises(DBAPIError) as failed:
        connection.execute(FAILING, PARAMETERS)
    engine.dispose()

    assert "division by zero" in str(failed.value)
    assert "ada@example.com" not in str(failed.value)


def test_an_error_of_the_async_engine_contains_no_parameters(settings: Settings) -> None:
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
