"""Sign-ins are counted in the broker for all processes, before the body is read, and a lost broker stops nobody."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from limits import RateLimitItemPerMinute
from starlette.types import Message, Receive, Scope, Send

from api.http import sign_in_limits
from api.http.client_network import normalize_address
from api.http.problems import Problem
from api.http.sign_in_limits import BROKER_SECONDS, SharedCounters, SignInGuard, SignInLimits, is_sign_in
from cli.local_stack.broker import BrokerServer
from shared.identifiers import new_id
from shared.settings import Settings
from tests.conftest import Api, serve_api

LIMIT = 3
LONGEST_WAIT_SECONDS = 0.2
ITEM = RateLimitItemPerMinute(LIMIT)


@pytest.fixture
def limits(broker_server: BrokerServer) -> Settings:
    """Settings with small limits, on the broker of all tests."""
    return Settings(broker_url=broker_server.url, rate_limit_sign_in=LIMIT, rate_limit_sign_in_account=LIMIT)


@pytest.fixture(autouse=True)
def wait_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long for the broker: on a busy machine one that runs may take longer than `BROKER_SECONDS`."""
    monkeypatch.setattr(sign_in_limits, "BROKER_SECONDS", 30.0)


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerServer]:
    """A broker of this test, which it may stop."""
    with BrokerServer(tmp_path / "broker") as broker:
        yield broker


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_an_ipv6_address_counts_as_its_network_of_64_bits(address: str, network: str) -> None:
    assert normalize_address(address) == network


def test_routes_that_take_credentials_or_tokens_of_emails_are_sign_ins() -> None:
    assert all(
        is_sign_in("POST", f"/auth/{name}") for name in ("token", "register", "forgot-password", "reset-password")
    )
    assert not any(is_sign_in("POST", f"/auth/{name}") for name in ("refresh", "logout", "logout-everywhere"))
    assert is_sign_in("POST", "/invitations") and is_sign_in("POST", "/invitations/accept")
    assert (
        not is_sign_in("GET", "/invitations")
        and not is_sign_in("GET", "/auth/token")
        and not is_sign_in("POST", "/tasks")
    )


def test_two_processes_count_together(limits: Settings) -> None:
    async def count() -> list[int]:
        one, other, key = SharedCounters(limits), SharedCounters(limits), str(new_id())
        used = [(await counters.count(ITEM, key)).used for counters in (one, other, one, other, one)]
        await one.close()
        await other.close()
        return used

    assert asyncio.run(count()) == [1, 2, 3, 4, 4]


def _stop(broker: BrokerServer) -> Callable[[], None]:
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


def _kill(broker: BrokerServer) -> Callable[[], None]:
    broker.kill()
    return lambda: None


@pytest.mark.parametrize("lose", [_stop, _kill], ids=["frozen", "killed"])
def test_while_the_broker_is_lost_each_process_counts_for_itself(
    limits: Settings,
    own_broker: BrokerServer,
    lose: Callable[[BrokerServer], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def count() -> list[int]:
        counters = SharedCounters(limits.model_copy(update={"broker_url": own_broker.url}))
        await counters.count(ITEM, "someone")
        monkeypatch.setattr(sign_in_limits, "BROKER_SECONDS", BROKER_SECONDS)
        restore = lose(own_broker)
        try:
            return [(await counters.count(ITEM, "someone")).used for _ in range(LIMIT + 1)]
        finally:
            restore()
            await counters.close()

    assert asyncio.run(count()) == [1, 2, 3, 4]
    assert BROKER_SECONDS < LONGEST_WAIT_SECONDS


def test_a_broker_that_has_never_answered_costs_no_error(limits: Settings) -> None:
    nowhere = limits.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})

    headers = asyncio.run(SignInLimits(nowhere).count_network("192.0.2.1"))

    assert headers["RateLimit-Policy"] == f'"sign_in";q={LIMIT};w=60'


def test_an_account_is_limited_whatever_the_addresses_are(limits: Settings) -> None:
    async def attempt() -> None:
        sign_ins = SignInLimits(limits)
        try:
            for _ in range(LIMIT):
                await sign_ins.count_account("ada@example.com")
            await sign_ins.count_account("eve@example.com")
            with pytest.raises(Problem, match="rate-limited"):
                await sign_ins.count_account("ada@example.com")
        finally:
            await sign_ins.close()

    asyncio.run(attempt())


def test_a_request_beyond_the_limit_is_answered_before_its_body_is_read(limits: Settings) -> None:
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    async def request() -> None:
        sign_ins = SignInLimits(limits)
        guard: Callable[[Any, Receive, Send], Awaitable[None]] = SignInGuard(application, sign_ins)
        scope = {"type": "http", "method": "POST", "path": "/auth/token", "client": ("2001:db8::1", 1), "state": {}}
        for last in range(LIMIT + 1):
            address = f"2001:db8::{last + 1}"
            await guard({**scope, "client": (address, 1), "state": {"request_id": "x"}}, receive, send)
        await sign_ins.close()

    asyncio.run(request())

    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert [message["status"] for message in starts] == [200] * LIMIT + [429]
    headers = dict(starts[-1]["headers"])
    assert headers[b"ratelimit"].startswith(b'"sign_in";r=0;t=') and 1 <= int(headers[b"retry-after"]) <= 60
    assert dict(starts[0]["headers"])[b"ratelimit-policy"] == b'"sign_in";q=3;w=60'


def test_the_served_api_limits_sign_ins_by_the_address_that_a_trusted_proxy_reports(settings: Settings) -> None:
    few = settings.model_copy(update={"rate_limit_sign_in": LIMIT})
    with serve_api(few) as api:
        statuses = [_sign_in(api, "192.0.2.1").status_code for _ in range(LIMIT + 1)]
        other = _sign_in(api, "192.0.2.2")

    assert statuses[-1] == 429 and 429 not in statuses[:-1]
    assert other.status_code != 429


def test_the_served_api_limits_the_sign_ins_to_an_account_from_all_addresses(settings: Settings) -> None:
    few = settings.model_copy(update={"rate_limit_sign_in_account": 2})
    name = f"{new_id().hex}@example.com"
    with serve_api(few) as api:
        statuses = [_sign_in(api, f"192.0.2.{last}", name).status_code for last in range(1, 4)]
        other = _sign_in(api, "192.0.2.1", f"other-{name}")

    assert statuses[-1] == 429 and 429 not in statuses[:-1]
    assert other.status_code != 429


def _sign_in(api: Api, address: str, username: str = "a@example.com") -> httpx2.Response:
    form = {"grant_type": "password", "username": username, "password": "b" * 12}
    headers = {"X-Forwarded-For": f"203.0.113.9, {address}"}
    return api.client_with(None).post("/auth/token", data=form, headers=headers)
