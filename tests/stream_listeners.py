"""Many listeners of streams in one thread, which reconnect as a browser does: to any of several addresses, after the last id."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.conftest import PATIENCE_SECONDS

LISTENER_PAUSE_SECONDS = 0.2


class Listener:
    """One listener, with the events that it received: (id, type, data)."""

    def __init__(self, path: str, first_address: int) -> None:
        self.path = path
        self.address = first_address
        self.last_id = ""
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.connections = 0
        self.is_over = False


@contextmanager
def listen(
    addresses: Sequence[tuple[str, int]],
    paths: Sequence[str],
    authorization: str,
    on_event: Callable[[Listener, dict[str, Any]], None] = lambda _listener, _data: None,
) -> Iterator[list[Listener]]:
    """Yield a listener for each path, all of which listen until the block ends."""
    listeners = [Listener(path, number) for number, path in enumerate(paths)]
    loop = asyncio.new_event_loop()

    async def run_all() -> None:
        await asyncio.gather(*(_run(one, addresses, authorization, on_event) for one in listeners))

    running = loop.create_task(run_all())

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(running)
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listeners
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(running.cancel)
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "the listeners did not end"


async def _run(
    listener: Listener,
    addresses: Sequence[tuple[str, int]],
    authorization: str,
    on_event: Callable[[Listener, dict[str, Any]], None],
) -> None:
    while not listener.is_over:
        host, port = addresses[listener.address % len(addresses)]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                await _read_stream(listener, reader, writer, f"{host}:{port}", authorization, on_event)
            finally:
                writer.close()
        listener.address += 1
        await asyncio.sleep(LISTENER_PAUSE_SECONDS)


async def _read_stream(
    listener: Listener,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str,
    authorization: str,
    on_event: Callable[[Listener, dict[str, Any]], None],
) -> None:
    lines = [f"GET {listener.path} HTTP/1.1", f"Host: {host}", f"Authorization: {authorization}"]
    if listener.last_id:
        lines.append(f"Last-Event-ID: {listener.last_id}")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 204"):
        listener.is_over = True
    if not head.startswith(b"HTTP/1.1 200"):
        return
    listener.connections += 1
    text = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        # As a browser does, read what has come of a chunk, whether the rest of it follows or not.
        while size and (part := await reader.read(size)):
            size -= len(part)
            text += part
            while b"\n\n" in text:
                message, text = text.split(b"\n\n", 1)
                fields = dict(line.split(": ", 1) for line in message.decode().split("\n") if not line.startswith(":"))
                listener.last_id = fields.get("id", listener.last_id)
                if "data" in fields:
                    data = json.loads(fields["data"])
                    listener.events.append((fields["id"], fields["event"], data))
                    on_event(listener, data)
        await reader.readexactly(2)
