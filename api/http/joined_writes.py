"""Sends what one turn of the event loop has for a connection in one system call.

uvicorn writes the head of an answer and its body apart, and uvloop sends each at once: the second system call is a sixth
of the API's processor time for a poll.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

AT_ONCE_BYTES: Final = 64 << 10
"""So much does not wait for the turn's end, so that a stream is told to pause as soon as its reader is slow."""


class JoinedWrites:
    """A transport that joins small writes. All else is that of the transport that it stands before."""

    __slots__ = ("_held", "_held_bytes", "_loop", "_transport", "get_extra_info", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send it when this turn of the loop ends, or now when much has gathered; always in order."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= AT_ONCE_BYTES:
            self._send()

    def write_eof(self) -> None:
        """Send what is held, then close the writing half of the connection."""
        self._send()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what is held, then close."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close without sending anything more."""
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
