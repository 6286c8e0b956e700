"""Attempts to sign in: who is refused after how many, and who is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from api.auth.attempts import PER_ACCOUNT, PER_ACCOUNT_AND_NETWORK, PER_NETWORK, Attempts
from api.http.problems import Problem
from shared.database.connections import make_async_engine
from shared.people.creation import create_person
from shared.settings import Settings
from tests.api.people import CHEAP_HASHES, open_database

HOME = "203.0.113.9"


def run(settings: Settings, act: Callable[[Attempts], Awaitable[None]]) -> None:
    """Run a coroutine with attempts that are counted in the database of the test."""

    async def run_and_close() -> None:
        engine = make_async_engine(settings, "test")
        try:
            await act(Attempts(engine.execution_options(isolation_level="AUTOCOMMIT")))
        finally:
            await engine.dispose()

    asyncio.run(run_and_close())


async def is_refused(attempts: Attempts, account: str, address: str, person_id: UUID | None = None) -> bool:
    try:
        await attempts.begin(account, address, person_id)
    except Problem as problem:
        assert problem.name == "rate-limited"
        assert 0 < int(problem.headers["Retry-After"]) <= 900
        return True
    return False


def test_guesses_from_everywhere_are_refused_but_the_owner_gets_in_from_home(settings: Settings) -> None:
    owner = create_person(settings.model_copy(update=CHEAP_HASHES), "ada@example.com")
    with open_database(settings) as connection:
        connection.execute(
            "INSERT INTO sessions (id, person_id, organization_id, method, address, expires_at)"
            " VALUES (%s, %s, %s, 'password', %s, now())",
            [uuid4(), owner.id, owner.organization_id, HOME],
        )

    async def act(attempts: Attempts) -> None:
        for number in range(PER_ACCOUNT):
            assert not await is_refused(attempts, "ada@example.com", f"198.51.100.{number}", owner.id)
        assert await is_refused(attempts, "ada@example.com", "198.51.100.99", owner.id)
        assert not await is_refused(attempts, "ada@example.com", HOME, owner.id)
        await attempts.forget("ada@example.com", "198.51.100.99")
        assert not await is_refused(attempts, "ada@example.com", "198.51.100.99", owner.id)

    run(settings, act)


def test_a_network_is_refused_whatever_the_accounts_are(settings: Settings) -> None:
    async def act(attempts: Attempts) -> None:
        # The addresses of one /64 belong to one customer.
        for number in range(PER_NETWORK):
            assert not await is_refused(attempts, f"{number}@example.com", f"2001:db8::{number:x}")
        assert await is_refused(attempts, "another@example.com", "2001:db8::ffff")
        assert not await is_refused(attempts, "another@example.com", "2001:db8:0:1::1")

    run(settings, act)


def test_attempts_that_succeed_do_not_count_and_parallel_ones_do(settings: Settings) -> None:
    async def act(attempts: Attempts) -> None:
        for _ in range(PER_ACCOUNT_AND_NETWORK * 2):
            await attempts.succeed(await attempts.begin("ada@example.com", HOME, None))
        together = [is_refused(attempts, "ada@example.com", HOME) for _ in range(PER_ACCOUNT_AND_NETWORK + 5)]
        assert sorted(await asyncio.gather(*together)) == [False] * PER_ACCOUNT_AND_NETWORK + [True] * 5

    run(settings, act)


@pytest.mark.parametrize("address", [None, "", "not an address", "fe80::1%eth0"])
def test_a_client_without_a_usual_address_is_counted_too(settings: Settings, address: str | None) -> None:
    async def act(attempts: Attempts) -> None:
        for _ in range(PER_ACCOUNT_AND_NETWORK):
            await attempts.begin("ada@example.com", address, None)
        with pytest.raises(Problem):
            await attempts.begin("ada@example.com", address, None)

    run(settings, act)
