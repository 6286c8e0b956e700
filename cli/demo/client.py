"""A small client of the API that uses only the standard library."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_SECONDS = 60
_WAIT_SECONDS = 20

Task = dict[str, Any]


class RequestRefused(Exception):
    """The API answered with an error. The message has its title and detail."""


class TaskTooSlow(Exception):
    """A task was not done within the time limit."""


@dataclass(frozen=True)
class Answer:
    """A response of the API."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Client:
    """Calls an API with a key. Several threads may use it, as each request opens a connection of its own."""

    def __init__(self, api_url: str, api_key: str) -> None:
        parts = urlsplit(api_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._api_key = api_key

    def upload(self, path: Path, media_type: str, kind: str | None = None, params: object = None) -> Task:
        """Upload a file, submit a task for it (`files.inspect` by default), and return the task."""
        boundary = secrets.token_hex(16)
        head = ""
        if kind is not None:
            head += f'--{boundary}\r\nContent-Disposition: form-data; name="task"\r\n'
            head += f"Content-Type: application/json\r\n\r\n{json.dumps({'kind': kind, 'params': params or {}})}\r\n"
        head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
        head += f"Content-Type: {media_type}\r\n\r\n"
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        return self._submit("/files", body, f"multipart/form-data; boundary={boundary}")

    def submit(self, path: str, body: object) -> Task:
        """Submit a task as JSON to `/reports`, `/emails` or `/tasks`, and return the task."""
        return self._submit(path, json.dumps(body).encode(), "application/json")

    def follow(self, task: Task, on_change: Callable[[Task], None], limit_seconds: float) -> Task:
        """Poll until the task is done, call `on_change` for each change, and return the task. Raises `TaskTooSlow`."""
        deadline = time.monotonic() + limit_seconds
        etag = ""
        while not task["done"]:
            if time.monotonic() > deadline:
                raise TaskTooSlow(f"{task['kind']} is still {task['status']} after {limit_seconds:.0f} s")
            conditions = {"If-None-Match": etag} if etag else {}
            answer = self._request("GET", f"/tasks/{task['id']}?wait={_WAIT_SECONDS}", headers=conditions)
            if answer.status != 304:
                etag = answer.headers.get("ETag", "")
                task = json.loads(answer.body)
                on_change(task)
        return task

    def download(self, url: str) -> bytes:
        """Return the content of an artifact from its `url`."""
        return self._request("GET", url).body

    def _submit(self, path: str, body: bytes, content_type: str) -> Task:
        answer = self._request("POST", path, body, {"Content-Type": content_type})
        task = json.loads(answer.body)
        assert isinstance(task, dict)
        return task

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self._api_key}", **(headers or {})})
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        finally:
            connection.close()
        if answer.status >= 400:
            raise RequestRefused(f"{method} {path}: {answer.status} {_explain(answer.body)}")
        return answer


def _explain(body: bytes) -> str:
    try:
        problem = json.loads(body)
        return f"{problem['title']}: {problem.get('detail') or problem.get('errors')}"
    except (ValueError, KeyError, TypeError):
        return body[:300].decode(errors="replace")
