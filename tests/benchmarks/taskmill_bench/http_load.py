"""Loads an HTTP server, in a process of its own: `python -m taskmill_bench.http_load`.

The order is one line of JSON on standard input. It has `host`, `port` and `requests` (`{method, path, headers, body}`,
taken in turn), and one of three modes:

- `load`: `connections` that each send the next request as soon as the last one is answered, for `seconds` or until
  `count` are answered;
- `latency`: one task at a time, `count` times: submit, then ask at `follow` (with the task's id in the place of `{id}`)
  until its status is one of `done`, pausing for `pause_seconds` between two questions;
- `hold`: each request on a connection of its own, all at once, until they are answered or this process is ended.

The answer is one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sys
import time
from typing import Any, cast

LINE_END = b"\r\n"
HEAD_END = b"\r\n\r\n"
LAST_ANSWERS_SECONDS = 30


def main() -> None:
    order = json.loads(sys.stdin.readline())
    if order["mode"] == "latency":
        answer = measure_latency(order)
    else:
        import uvloop

        work = load if order["mode"] == "load" else hold
        answer = uvloop.run(work(order))
    print(json.dumps(answer), flush=True)


def write_request(order: dict[str, Any], request: dict[str, Any]) -> bytes:
    """Return the bytes of a request, with a Content-Length if it has a body."""
    lines = [f"{request['method']} {request['path']} HTTP/1.1", f"Host: {order['host']}:{order['port']}"]
    lines += [f"{name}: {value}" for name, value in request.get("headers", {}).items()]
    body = request.get("body")
    if body is not None:
        body = body.encode()
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + HEAD_END + (body or b"")


def find_end(data: bytes) -> int:
    """Return where the first response in `data` ends, or -1 while it is incomplete. Chunked responses are not supported."""
    head_end = data.find(HEAD_END)
    if head_end < 0:
        return -1
    if data[9:12] in (b"304", b"204"):
        return head_end + 4
    at = data.find(b"\r\ncontent-length:", 0, head_end)
    if at < 0:
        at = data[:head_end].lower().find(b"\r\ncontent-length:")
        if at < 0:
            raise ValueError(f"a response without a length: {data[:200]!r}")
    length = int(data[at + 17 : data.index(LINE_END, at + 2)])
    end = head_end + 4 + length
    return end if len(data) >= end else -1


def wait_for_go() -> None:
    print("ready", flush=True)
    if sys.stdin.readline().strip() != "go":
        sys.exit("the input ended before the line that starts the load")


class Load:
    """The state that all connections share."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.requests = [write_request(order, request) for request in order["requests"]]
        self.left = order.get("count") or math.inf
        self.turn = 0
        self.latencies: list[float] = []
        self.errors = 0
        self.sample = ""
        self.open = 0
        self.deadline = math.inf
        self.finished = asyncio.Event()

    def take(self) -> bytes | None:
        """Return the next request, or None when there is nothing more to send."""
        if self.left <= 0 or time.perf_counter() >= self.deadline:
            return None
        self.left -= 1
        self.turn = (self.turn + 1) % len(self.requests)
        return self.requests[self.turn]

    def note_error(self, sample: str) -> None:
        self.errors += 1
        self.sample = self.sample or sample


class Connection(asyncio.Protocol):
    """A connection with one request at a time in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._sent_at = 0.0
        self._waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop has the methods of `asyncio.Transport`, but is no subclass.
        self._transport = cast(asyncio.Transport, transport)
        self._load.open += 1

    def send_next(self) -> None:
        request = self._load.take()
        if request is None:
            self._transport.close()
            return
        self._waits = True
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._received + data if self._received else data
        if find_end(data) < 0:
            self._received = data
            return
        self._received = b""
        load = self._load
        load.latencies.append(time.perf_counter() - self._sent_at)
        if data[9:10] != b"2" and data[9:12] != b"304":
            load.note_error(data[:600].decode("latin-1"))
        self._waits = False
        self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        load = self._load
        if self._waits:
            load.note_error(f"a connection was closed before its answer ({exc})")
        load.open -= 1
        if load.open == 0:
            load.finished.set()


async def load(order: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    work = Load(order)
    connections = [
        (await loop.create_connection(lambda: Connection(work), order["host"], order["port"]))[1]
        for _ in range(order["connections"])
    ]
    wait_for_go()
    seconds = order.get("seconds")
    processor, began = time.process_time(), time.perf_counter()
    if seconds:
        work.deadline = began + seconds
    for connection in connections:
        connection.send_next()
    await asyncio.wait_for(work.finished.wait(), (seconds or order["limit_seconds"]) + LAST_ANSWERS_SECONDS)
    took = time.perf_counter() - began
    ordered = sorted(work.latencies)
    return {
        "requests": len(ordered),
        "errors": work.errors,
        "sample": work.sample,
        "seconds": took,
        "p50_ms": ordered[len(ordered) // 2] * 1000 if ordered else None,
        "p99_ms": ordered[max(0, math.ceil(len(ordered) * 0.99) - 1)] * 1000 if ordered else None,
        "client_cpu_seconds": time.process_time() - processor,
    }


class Held(asyncio.Protocol):
    """A connection that only waits for its response."""

    def __init__(self, request: bytes, state: dict[str, Any]) -> None:
        self._request = request
        self._state = state

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._state["answered"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._state["left"] -= 1
        if self._state["left"] == 0:
            self._state["over"].set()


async def hold(order: dict[str, Any]) -> dict[str, Any]:
    requests = [write_request(order, request) for request in order["requests"]]
    state: dict[str, Any] = {"answered": 0, "left": len(requests), "over": asyncio.Event()}
    wait_for_go()
    loop = asyncio.get_running_loop()
    for request in requests:
        await loop.create_connection(lambda request=request: Held(request, state), order["host"], order["port"])
    await asyncio.wait_for(state["over"].wait(), order["limit_seconds"])
    return {"answered": state["answered"]}


class Caller:
    """A blocking connection, one request at a time."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._socket = socket.create_connection((order["host"], order["port"]), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, request: bytes) -> dict[str, Any]:
        self._socket.sendall(request)
        data = b""
        while (end := find_end(data)) < 0:
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionError("closed before the answer")
            data += received
        if data[9:10] != b"2":
            raise ValueError(f"refused: {data[:600]!r}")
        answer: dict[str, Any] = json.loads(data[data.index(HEAD_END) + 4 : end])
        return answer


def measure_latency(order: dict[str, Any]) -> dict[str, Any]:
    submit = write_request(order, order["requests"][0])
    follow = order["follow"]
    done = frozenset(order["done"])
    caller = Caller(order)
    wait_for_go()
    latencies = []
    for _ in range(order["count"]):
        began = time.perf_counter()
        task_id = caller.call(submit)["id"]
        question = write_request(order, {**follow, "path": follow["path"].replace("{id}", task_id)})
        while caller.call(question)["status"] not in done:
            time.sleep(order["pause_seconds"])
        latencies.append(time.perf_counter() - began)
        time.sleep(order["idle_seconds"])
    return {"latencies": latencies}


if __name__ == "__main__":
    main()
