"""Seeing when the stack is ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

_POLL_SECONDS = 0.05
_COMPLAINT_SECONDS = 15
_ANSWER_SECONDS = 5
_SHOWN_CHARACTERS = 500


async def wait_until_ready(host: str, api_port: int, listeners: Mapping[str, int], say: Callable[[str], None]) -> None:
    """Return when `GET /health/ready` answers 200 and each listener's port, by its name, takes connections.

    Now and then it says what is still missing, and goes on: the supervisor may yet bring it up.
    """
    complaint_due = time.monotonic() + _COMPLAINT_SECONDS
    while True:
        status, body = await _ask_health(host, api_port)
        closed = [name for name, port in listeners.items() if not await _accepts(port)]
        if status == 200 and not closed:
            return
        if time.monotonic() > complaint_due:
            missing = (
                f"no connection to {', '.join(closed)}" if status == 200 else f"/health/ready: {body or 'no answer'}"
            )
            say(f"Not ready yet; {missing}")
            complaint_due += _COMPLAINT_SECONDS
        await asyncio.sleep(_POLL_SECONDS)


async def _ask_health(host: str, port: int) -> tuple[int, str]:
    """The status, 0 for no answer, and the beginning of the body."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                name = f"[{host}]" if ":" in host else host
                request = f"GET /health/ready HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                answer = b""
                while received := await reader.read(65536):
                    answer += received
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, ""
    head, _, body = answer.decode("utf-8", errors="replace").partition("\r\n\r\n")
    words = head.split(maxsplit=2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body[:_SHOWN_CHARACTERS]


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
