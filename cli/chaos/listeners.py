"""Listens to event streams of tasks, and connects again whenever a stream ends, as a browser does."""

from __future__ import annotations

import http
import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_LISTENERS: Final = 16
_PAUSE_SECONDS: Final = 0.2
_SILENT_SECONDS: Final = 30.0
"""How long a stream may be silent before the listener connects again: longer than the server's pause between comments."""


class Listeners:
    """Keeps the sequence numbers of the events that were received of each task."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._host, self._port, self._key = host, port, key
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(_LISTENERS)
        self.histories: dict[str, list[int]] = {}
        """What was received by each listener, whether or not its stream came to its end."""
        self.connections = 0
        self.wrong: list[str] = []
        """Answers with an unexpected status, which no fault explains."""

    def listen(self, task_id: str) -> None:
        """Receive the events of a task in a thread, until the server says that no more will come."""
        received = self.histories[task_id] = []
        self._pool.submit(self._listen, task_id, received)

    def stop(self, seconds: float) -> None:
        """Wait for the listeners, for so many seconds at most, and end those that are left."""
        threading.Timer(seconds, self._stopping.set).start()
        self._pool.shutdown(wait=True)

    def _listen(self, task_id: str, received: list[int]) -> None:
        while not self._stopping.wait(_PAUSE_SECONDS):
            status = None
            try:
                status = self._receive(task_id, received)
            except (OSError, http.client.HTTPException):
                continue
            if status == http.HTTPStatus.NO_CONTENT:
                return
            if status not in {200, 429, 503}:
                self.wrong.append(f"the events of {task_id}: {status}")
                return

    def _receive(self, task_id: str, received: list[int]) -> int:
        """Append the events of one stream until it ends; return the status of the answer."""
        headers = {"Authorization": f"Bearer {self._key}"}
        if received:
            headers["Last-Event-ID"] = str(received[-1])
        self.connections += 1
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_SILENT_SECONDS)
        try:
            connection.request("GET", f"/tasks/{task_id}/events", headers=headers)
            response = connection.getresponse()
            event_id = None
            while response.status == http.HTTPStatus.OK and (line := response.readline()):
                if line.startswith(b"id:"):
                    event_id = int(line.removeprefix(b"id:"))
                elif not line.strip() and event_id is not None:
                    # An event is complete with its empty line; one that was cut off is sent again.
                    received.append(event_id)
                    event_id = None
            return response.status
        finally:
            connection.close()
