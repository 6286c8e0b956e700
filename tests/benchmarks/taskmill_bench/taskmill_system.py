"""Taskmill, part by part: an API, a relay and the workers, with everything on that it has by default."""

from __future__ import annotations

import http.client
import json
import uuid
from pathlib import Path
from typing import Any

import psycopg
from pydantic import JsonValue
from taskmill_bench.processes import BenchFailed, python_module
from taskmill_bench.servers import Servers
from taskmill_bench.system import HttpSystem, Sending

from shared.api_keys import create_key
from shared.database.schema_migrations import migrate
from shared.settings import Settings

TEMPLATE = "bench_taskmill_template"
BATCH_TASKS = 250
BATCH_CONNECTIONS = 4

LIVE_TASKS = """
SELECT EXISTS (SELECT FROM tasks WHERE status = 'queued' AND rung_at IS NULL)
    OR EXISTS (SELECT FROM tasks WHERE status = 'queued' AND rung_at IS NOT NULL)
    OR EXISTS (SELECT FROM tasks WHERE status = 'running')
    OR EXISTS (SELECT FROM tasks WHERE status IN ('scheduled', 'retrying'))"""
"""Each part is answered from a partial index of live rows, so that asking costs next to nothing on a grown table."""


class Taskmill(HttpSystem):
    """Tasks are submitted one by one, with an admin's key."""

    name = "taskmill"
    title = "an API, a relay, workers of 4 threads; a row, its history, authentication, limits"
    queues = "files"
    worker_concurrency: int | None = None

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self._key = ""
        self._objects = folder / f"{self.name}-objects"
        self.more_settings: dict[str, str] = {}
        """Settings of one part, by the names of their environment variables."""

    def environment(self) -> dict[str, str]:
        names = self.make_settings(self.database_url).model_dump(mode="json", exclude_unset=True)
        own = {f"TASKMILL_{name.upper()}": str(value) for name, value in names.items()}
        return {**super().environment(), **own, **self.more_settings}

    def make_settings(self, database_url: str) -> Settings:
        """What an operator must say, and fewer log lines."""
        return Settings(
            database_url=database_url,
            broker_url=self.servers.broker_url,
            storage_url=self._objects.as_uri(),
            log_level="warning",
        )

    def make_database(self) -> str:
        template = self.make_template()
        url = self.servers.create_database(f"bench_{self.name}", template)
        self._key = create_key(self.make_settings(url), "bench", "admin").key
        return url

    def make_template(self) -> str:
        """Make the database that others are copies of, if it is not there, and give its name."""
        url = self.servers.database_url(TEMPLATE)
        try:
            psycopg.connect(url, connect_timeout=10).close()
        except psycopg.OperationalError:
            migrate(self.make_settings(self.servers.create_database(TEMPLATE)))
        return TEMPLATE

    def start_front(self) -> None:
        command = [*python_module("cli.main"), "api", "--port", self.choose_port()]
        api = self.start_part("api", command)
        self.start_part("relay", [*python_module("cli.main"), "relay"])
        api.wait_for_port(self.port)

    def start_workers(self) -> None:
        for _ in range(self.worker_processes):
            self.start_worker()

    def start_worker(self) -> None:
        command = [*python_module("cli.main"), "worker", "--queues", self.queues]
        if self.worker_concurrency is not None:
            command += ["--concurrency", str(self.worker_concurrency)]
        self.start_part("worker", command)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"}

    def ping(self, **params: JsonValue) -> dict[str, Any]:
        return {"kind": "platform.ping", "params": params}

    def submit_request(self) -> dict[str, Any]:
        return self.post("/tasks", self.ping())

    def post(self, path: str, body: object) -> dict[str, Any]:
        return {"method": "POST", "path": path, "headers": self.headers, "body": json.dumps(body)}

    def poll_request(self, task_id: str) -> dict[str, Any]:
        return {"method": "GET", "path": f"/tasks/{task_id}", "headers": self.headers}

    def follow_request(self) -> dict[str, Any]:
        return {"method": "GET", "path": "/tasks/{id}?wait=30", "headers": self.headers}

    def is_drained(self) -> bool:
        return not self.query(LIVE_TASKS)[0]

    def require_all_succeeded(self) -> None:
        """Raise `BenchFailed` unless every task that was sent has succeeded, once and only once."""
        tasks, done = self.query("SELECT count(*), count(*) FILTER (WHERE status = 'succeeded') FROM tasks")
        if (tasks, done) != (self.sent, self.sent):
            raise BenchFailed(f"of {self.sent} tasks that were sent there are {tasks}, and {done} have succeeded")

    def send_batches(self, count: int, **params: JsonValue) -> Sending:
        """Submit by `/tasks/batch`."""
        size = min(BATCH_TASKS, count)
        requests = [self.post("/tasks/batch", {"tasks": [self.ping(**params)] * size})]
        whole, rest = divmod(count, size)
        sending = self.send_requests(requests, whole, whole * size, BATCH_CONNECTIONS)
        if rest:
            self.send_requests([self.post("/tasks/batch", {"tasks": [self.ping(**params)] * rest})], 1, rest)
        return sending

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[dict[str, str], Any]:
        """Make one request and return the headers (their names in lower case) and the JSON of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {**self.headers, **headers})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise BenchFailed(f"{method} {path} was answered {response.status}: {content[:500]!r}")
        return {name.lower(): value for name, value in response.getheaders()}, json.loads(content)

    def upload(self, name: str, content: bytes, task: object = None) -> dict[str, Any]:
        """Upload a file and return its task."""
        body, media_type = write_form(name, content, task)
        _, answer = self.call("POST", "/files", body, **{"Content-Type": media_type})
        self.sent += 1
        return dict(answer)


class TaskmillBatch(Taskmill):
    """The same, submitted by `/tasks/batch`."""

    name = "taskmill_batch"
    title = "the same, submitted by `/tasks/batch`, 250 tasks a request"

    def send_many(self, count: int) -> Sending:
        return self.send_batches(count)


def write_form(name: str, content: bytes, task: object = None) -> tuple[bytes, str]:
    """Return a multipart form that uploads a file, and its content type."""
    boundary = uuid.uuid4().hex.encode()
    parts = []
    if task is not None:
        parts += [b'--%s\r\nContent-Disposition: form-data; name="task"\r\n\r\n' % boundary, json.dumps(task).encode()]
        parts += [b"\r\n"]
    parts += [b'--%s\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n' % (boundary, name.encode())]
    parts += [b"Content-Type: application/octet-stream\r\n\r\n", content, b"\r\n--%s--\r\n" % boundary]
    return b"".join(parts), f"multipart/form-data; boundary={boundary.decode()}"
