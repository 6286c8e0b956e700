"""A TCP proxy that cuts every connection after some bytes of the answer, as proxies with a time limit cut streams."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.conftest import PATIENCE_SECONDS

HEAD_END = b"\r\n\r\n"


@dataclass
class CuttingProxy:
    """The address of a proxy, and how many connections it has cut."""

    host: str
    port: int
    cuts: int = 0


@contextmanager
def cut_connections(upstream: tuple[str, int], body_bytes: Sequence[int]) -> Iterator[CuttingProxy]:
    """Yield a proxy whose connections pass on so many bytes after the head of the answer, each the next number in turn.

    Every second cut resets the connection, and the others close it as if the answer were over.
    """
    loop = asyncio.new_event_loop()
    bounds = itertools.cycle(body_bytes)
    proxy = CuttingProxy("127.0.0.1", 0)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        connections.add(current)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await _pass_on(reader, writer, upstream, next(bounds), proxy)
        finally:
            writer.close()
            connections.discard(current)

    async def open_server() -> asyncio.Server:
        return await asyncio.start_server(serve, proxy.host, 0)

    server = loop.run_until_complete(open_server())
    proxy.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def close() -> None:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result(PATIENCE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_SECONDS)
        loop.close()


async def _pass_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream: tuple[str, int],
    body_bytes: int,
    proxy: CuttingProxy,
) -> None:
    request = await reader.readuntil(HEAD_END)
    answer, to_upstream = await asyncio.open_connection(*upstream)
    try:
        to_upstream.write(request)
        writer.write(await answer.readuntil(HEAD_END))
        left = body_bytes
        while left and (part := await answer.read(left)):
            writer.write(part)
            await writer.drain()
            left -= len(part)
        if not left:
            proxy.cuts += 1
            if proxy.cuts % 2:
                writer.transport.abort()
    finally:
        to_upstream.close()
