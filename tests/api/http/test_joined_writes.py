"""Small writes of one event loop turn are joined into one system call."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from api.http.joined_writes import AT_ONCE_BYTES, JoinedWrites


class RecordingTransport:
    """A transport that records its calls."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.closing = True
        self.told.append("close")

    def abort(self) -> None:
        self.closing = True
        self.told.append("abort")

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"

    def pause_reading(self) -> None:
        self.told.append("pause")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def join_writes() -> tuple[JoinedWrites, RecordingTransport]:
    transport = RecordingTransport()
    return JoinedWrites(cast(asyncio.Transport, transport), asyncio.get_running_loop()), transport


@pytest.mark.anyio
async def test_writes_of_one_event_loop_turn_are_sent_together_at_its_end() -> None:
    joined, transport = join_writes()

    joined.write(b"head ")
    joined.write(b"body")
    assert transport.told == []
    await asyncio.sleep(0)
    joined.write(b"next")
    await asyncio.sleep(0)

    assert transport.told == [b"head body", b"next"]


@pytest.mark.anyio
async def test_large_data_is_sent_at_once_and_in_order() -> None:
    joined, transport = join_writes()
    chunk = b"x" * AT_ONCE_BYTES

    joined.write(b"head")
    joined.write(chunk)
    joined.write(b"rest")

    assert transport.told == [b"head" + chunk]
    await asyncio.sleep(0)
    assert transport.told == [b"head" + chunk, b"rest"]


@pytest.mark.anyio
async def test_closing_sends_pending_data_and_aborting_does_not() -> None:
    closed, transport_closed = join_writes()
    aborted, transport_aborted = join_writes()

    for joined in (closed, aborted):
        joined.write(b"last")
    closed.close()
    aborted.abort()
    await asyncio.sleep(0)

    assert transport_closed.told == [b"last", "close"]
    assert transport_aborted.told == ["abort"]


@pytest.mark.anyio
async def test_other_methods_are_those_of_the_transport() -> None:
    joined, transport = join_writes()

    joined.pause_reading()

    assert transport.told == ["pause"]
    assert joined.get_extra_info("peername") == "the peername"
