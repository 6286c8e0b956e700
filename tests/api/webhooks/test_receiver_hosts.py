"""The hosts of webhooks are looked up when they are submitted, and one name server delays no others."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from api.http.problems import Problem
from api.webhooks import receiver_hosts
from api.webhooks.receiver_hosts import MAX_LOOK_UPS, ReceiverHosts
from tests.conftest import PATIENCE_SECONDS


def test_a_host_without_an_address_is_refused_at_its_pointer() -> None:
    def look_up(host: str, port: int) -> Any:
        if host == "nobody.invalid":
            raise OSError("unknown")
        return ["an address"]

    hosts = ReceiverHosts(look_up)
    with pytest.raises(Problem) as raised:
        asyncio.run(hosts.require({"/url": "http://example.com/", "/webhook/url": "http://nobody.invalid/"}))
    hosts.close()

    assert [(error.pointer, error.code) for error in raised.value.errors] == [("/webhook/url", "host_not_resolved")]


def test_name_servers_that_do_not_answer_refuse_no_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_hosts, "LOOK_UP_SECONDS", 0.2)
    answers = threading.Event()

    def look_up(host: str, port: int) -> Any:
        answers.wait(PATIENCE_SECONDS)
        return ["an address"]

    async def require() -> list[BaseException | None]:
        slow = [hosts.require({"/url": f"http://slow{n}.example/"}) for n in range(MAX_LOOK_UPS)]
        return await asyncio.gather(*slow, hosts.require({"/url": "http://other.example/"}), return_exceptions=True)

    hosts = ReceiverHosts(look_up)
    *slow, other = asyncio.run(require())
    answers.set()
    hosts.close()

    assert all(isinstance(one, Problem) for one in slow)
    assert other is None
