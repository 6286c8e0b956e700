"""Joins the small writes of one turn of the event loop into one system call for each connection.

uvicorn writes the head and the body of an answer separately, and uvloop sends each at once. The second system call takes a
sixth of the processor time in which the API answers a poll.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

AT_ONCE_BYTES: Final = 64 << 10
"""From this many bytes on, data is sent at once, so that the transport can pause a stream whose reader is slow."""


class JoinedWrites:
    """A transport that joins small writes, and leaves everything else to the transport that it wraps."""

    __slots__ = ("_held", "_held_bytes", "_loop", "_transport", "get_extra_info", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send the data when this turn of the loop ends, or at once from `AT_ONCE_BYTES` on. The order is kept."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= AT_ONCE_BYTES:
            self._send()

    def write_eof(self) -> None:
        """Send the pending data, then close the writing half of the connection."""
        self._send()
        self._transport.write_eof()

    def close(self) -> None:
        """Send the pending data, then close the connection."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection without sending the pending data."""
        self._held.clear()
        self._transport.abort()

    def _send(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            if not self.is_closing():
                self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
