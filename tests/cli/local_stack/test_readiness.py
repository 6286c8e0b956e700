from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from cli.local_stack import readiness
from cli.local_stack.readiness import ReadyNotices, wait_for_notices, watch_for_refusals
from cli.local_stack.server_process import ServerFailed
from shared.ready_notice import NOTIFY_SOCKET_VARIABLE, notify_ready


@pytest.fixture
def notices() -> contextlib.closing[ReadyNotices]:
    return contextlib.closing(ReadyNotices(None))


def test_a_part_is_silent_until_it_sends_its_notice(
    notices: contextlib.closing[ReadyNotices], monkeypatch: pytest.MonkeyPatch
) -> None:
    with notices as receiving:
        monkeypatch.setenv(NOTIFY_SOCKET_VARIABLE, str(receiving.open("worker-files")))
        receiving.open("worker-email")
        assert receiving.list_silent() == ["worker-files", "worker-email"]

        notify_ready()

        assert receiving.list_silent() == ["worker-email"]


@pytest.mark.parametrize("address", ["", "relative/path", "/there/is/no/socket", "@there-is-no-such-name"])
def test_a_notice_that_nobody_receives_harms_nothing(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(NOTIFY_SOCKET_VARIABLE, address)

    notify_ready()


def test_a_worker_that_crashes_is_reported_and_the_stack_is_not_ready(
    notices: contextlib.closing[ReadyNotices], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "COMPLAINT_SECONDS", 0)
    said: list[str] = []

    async def wait() -> None:
        with notices as receiving:
            path = receiving.open("worker-files")
            waiting = asyncio.create_task(wait_for_notices(receiving, lambda _: 1, said.append))
            while not said:  # noqa: ASYNC110 - the report is a call, and no event.
                await asyncio.sleep(0.01)
            assert not waiting.done()
            monkeypatch.setenv(NOTIFY_SOCKET_VARIABLE, os.fspath(path))
            notify_ready()
            await waiting

    asyncio.run(wait())

    assert said[0] == "Not ready yet; worker-files ended with exit code 1"


def test_a_part_whose_configuration_is_wrong_ends_the_start() -> None:
    exit_codes = {"worker-files": 2}

    with pytest.raises(ServerFailed, match="Not ready: worker-files ended with exit code 2"):
        asyncio.run(watch_for_refusals(["api", "worker-files"], exit_codes.get))
