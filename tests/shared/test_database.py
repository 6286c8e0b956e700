"""Connections to Postgres: what their errors say."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.database import make_async_engine, make_engine
from shared.settings import Settings

FAILING = text("SELECT 1 / 0 FROM (SELECT :address AS address) AS a WHERE address <> ''")
PARAMETERS = {"address": "ada@example.com"}


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
