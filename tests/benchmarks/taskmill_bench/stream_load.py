"""Listens to streams of server-sent events, in a process of its own: `python -m taskmill_bench.stream_load`.

The order is one line of JSON on standard input: `host`, `port`, `listeners` (how many), `stream` (the request that opens a
stream), `submit` (the request that submits a task), `count` (how many tasks, one at a time), `pause_seconds` (before each) and
`limit_seconds` (for each).

If the path of `stream` has `{id}`, a task has listeners of its own: the requests `hold` and `release` are sent before and after,
and between them the task is submitted and all listeners have received its first event. Otherwise all listen from before the
first task on, and have been told the position at which they begin.

The answer is one line of JSON with `tasks`: for each its `id`, and in `received` when each listener had received the event of
its end, in seconds since 1970.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, cast

from taskmill_bench.http_load import Caller, wait_for_go, write_request

MESSAGE_END = b"\n\n"
ID = b"id: "
END = b'"status":"succeeded"'


def main() -> None:
    import uvloop

    order = json.loads(sys.stdin.readline())
    print(json.dumps(uvloop.run(listen(order))), flush=True)


class Listeners:
    """What a number of listeners have received together."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._listening = 0
        self.all_listen = asyncio.Event()
        self.received: list[float] = []
        self.all_received = asyncio.Event()

    def await_next(self) -> None:
        """Forget what was received, because another task begins."""
        self.received = []
        self.all_received.clear()

    def note_listening(self) -> None:
        self._listening += 1
        if self._listening == self._count:
            self.all_listen.set()

    def note_end(self) -> None:
        self.received.append(time.time())
        if len(self.received) == self._count:
            self.all_received.set()


class Listener(asyncio.Protocol):
    """A connection that receives one stream."""

    def __init__(self, request: bytes, listeners: Listeners) -> None:
        self._request = request
        self._listeners = listeners
        self._listens = False
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop has the methods of `asyncio.Transport`, but is no subclass.
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        *messages, self._rest = (self._rest + data).split(MESSAGE_END)
        for message in messages:
            if ID in message and not self._listens:
                self._listens = True
                self._listeners.note_listening()
            if END in message:
                self._listeners.note_end()


async def listen(order: dict[str, Any]) -> dict[str, Any]:
    caller = Caller(order)
    has_own_listeners = "{id}" in order["stream"]["path"]
    listeners = Listeners(order["listeners"])
    opened = [] if has_own_listeners else await open_streams(order, listeners, "")
    wait_for_go()
    tasks = []
    for _ in range(order["count"]):
        await asyncio.sleep(order["pause_seconds"])
        if has_own_listeners:
            listeners = Listeners(order["listeners"])
            await call(caller, order, "hold")
            task_id = (await call(caller, order, "submit"))["id"]
            opened = await open_streams(order, listeners, task_id)
            await call(caller, order, "release")
        else:
            listeners.await_next()
            task_id = (await call(caller, order, "submit"))["id"]
        await asyncio.wait_for(listeners.all_received.wait(), order["limit_seconds"])
        tasks.append({"id": task_id, "received": listeners.received})
        if has_own_listeners:
            close(opened)
    close(opened)
    return {"tasks": tasks}


async def call(caller: Caller, order: dict[str, Any], name: str) -> dict[str, Any]:
    return await asyncio.to_thread(caller.call, write_request(order, order[name]))


async def open_streams(order: dict[str, Any], listeners: Listeners, task_id: str) -> list[asyncio.BaseTransport]:
    """Open all streams, and return once every listener has received its first message."""
    request = write_request(order, {**order["stream"], "path": order["stream"]["path"].replace("{id}", task_id)})
    loop = asyncio.get_running_loop()
    opened: list[asyncio.BaseTransport] = []
    for _ in range(order["listeners"]):
        transport, _ = await loop.create_connection(lambda: Listener(request, listeners), order["host"], order["port"])
        opened.append(transport)
    await asyncio.wait_for(listeners.all_listen.wait(), order["limit_seconds"])
    return opened


def close(transports: list[asyncio.BaseTransport]) -> None:
    for transport in transports:
        transport.close()


if __name__ == "__main__":
    main()
