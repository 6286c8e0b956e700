"""Waits until the stack is ready: the API answers, the listeners accept connections, and each worker has sent a notice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from cli.local_stack.child_process import Account
from cli.local_stack.owned_files import find_short_runtime_folder
from cli.local_stack.server_process import ServerFailed
from shared.ready_notice import READY

_POLL_SECONDS = 0.05
COMPLAINT_SECONDS = 15
_ANSWER_SECONDS = 5
_SHOWN_CHARACTERS = 500
_PARTS_WITH_SIGNS_OF_LIFE = ("relay", "sweeper", "beat")


CONFIGURATION_ERROR = 2
"""The exit code of a part that cannot start because of its settings or its code. Restarting it does not help."""


class ReadyNotices:
    """Receives the notices of parts, each on a socket of its own in a folder of the account."""

    def __init__(self, account: Account | None) -> None:
        self._account = account
        self._folder = find_short_runtime_folder(account.uid if account else os.geteuid(), None)
        self._sockets: dict[str, socket.socket] = {}
        self._ready: set[str] = set()

    def open(self, part: str) -> Path:
        """Return the path of the socket on which the part is to send its notice."""
        path = self._folder / part
        receiving = self._sockets[part] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiving.setblocking(False)
        receiving.bind(str(path))
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)
        return path

    def list_silent(self) -> list[str]:
        """Return the parts that have not sent a notice yet."""
        for part, receiving in self._sockets.items():
            try:
                if READY in receiving.recv(4096).splitlines():
                    self._ready.add(part)
            except BlockingIOError:
                continue
        return [part for part in self._sockets if part not in self._ready]

    def close(self) -> None:
        """Close the sockets and remove their folder."""
        for receiving in self._sockets.values():
            receiving.close()
        shutil.rmtree(self._folder, ignore_errors=True)


async def wait_for_notices(
    notices: ReadyNotices, find_exit_code: Callable[[str], int | None], say: Callable[[str], None]
) -> None:
    """Return when every part that has a socket has sent its notice.

    Reports every few seconds which have not, and with which exit code they ended last.
    """
    complaint_due = time.monotonic() + COMPLAINT_SECONDS
    while silent := notices.list_silent():
        if time.monotonic() > complaint_due:
            say(f"Not ready yet; {', '.join(_describe_silence(part, find_exit_code(part)) for part in silent)}")
            complaint_due += COMPLAINT_SECONDS
        await asyncio.sleep(_POLL_SECONDS)


async def watch_for_refusals(parts: Iterable[str], find_exit_code: Callable[[str], int | None]) -> None:
    """Raise `ServerFailed` when a part refuses to start; until then, never return."""
    while True:
        for part in parts:
            if find_exit_code(part) == CONFIGURATION_ERROR:
                raise ServerFailed(
                    f"Not ready: {part} ended with exit code {CONFIGURATION_ERROR}, as its configuration is wrong. Its own "
                    "lines above say what to do"
                )
        await asyncio.sleep(_POLL_SECONDS)


def _describe_silence(part: str, exit_code: int | None) -> str:
    return f"{part} is starting" if exit_code is None else f"{part} ended with exit code {exit_code}"


async def wait_until_ready(host: str, api_port: int, listeners: Mapping[str, int], say: Callable[[str], None]) -> None:
    """Return when `GET /health/ready` answers 200 and the port of each listener accepts connections.

    Reports every few seconds what is missing, and goes on: the supervisor may start it again.
    """
    complaint_due = time.monotonic() + COMPLAINT_SECONDS
    while True:
        status, body = await _ask_health(host, api_port)
        if status == 200 and (silent := _list_silent_parts(body)):
            status, body = 0, f"no sign of life of {', '.join(silent)}"
        closed = [name for name, port in listeners.items() if not await _accepts(port)]
        if status == 200 and not closed:
            return
        if time.monotonic() > complaint_due:
            missing = (
                f"no connection to {', '.join(closed)}"
                if status == 200
                else f"/health/ready: {body[:_SHOWN_CHARACTERS] or 'no answer'}"
            )
            say(f"Not ready yet; {missing}")
            complaint_due += COMPLAINT_SECONDS
        await asyncio.sleep(_POLL_SECONDS)


async def _ask_health(host: str, port: int) -> tuple[int, str]:
    """Return the status, 0 for no answer, and the body."""
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
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body


def _list_silent_parts(body: str) -> list[str]:
    """Return the parts of the stack whose check failed, although submissions are accepted without them."""
    try:
        checks = json.loads(body)["checks"]
        return [part for part in _PARTS_WITH_SIGNS_OF_LIFE if checks[part]["status"] != "ok"]
    except (KeyError, TypeError, ValueError):
        return []


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
