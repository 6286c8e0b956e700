"""An object store that responds with 503, for a while and permanently."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import httpx2
import pytest

from cli.local_stack.child_process import wait_until
from cli.local_stack.free_ports import choose_port, is_free
from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS
from tests.faults.conftest import Room

DATA = Path(__file__).resolve().parents[1] / "data"
IMAGES: dict[str, Any] = {
    "kind": "files.make_images",
    "params": {"variants": [{"name": "small", "width": 32, "format": "jpeg"}]},
}


class Front(ThreadingHTTPServer):
    """A proxy before the store, which responds to the next `failures` uploads with 503."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind = behind
        self.failures = 0.0
        self.refused = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command in {"PUT", "POST"} and self.server.failures > 0:
            self.server.failures -= 1
            self.server.refused += 1
            self._send(503, {}, b"<Error><Code>SlowDown</Code><Message>Later</Message></Error>")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=PATIENCE_SECONDS)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            self._send(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        length = headers.get("content-length", headers.get("Content-Length", str(len(body))))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    port = choose_port()
    keys = {"NANIO_ACCESS_KEY": "A" * 20, "NANIO_SECRET_KEY": secrets.token_hex(16)}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["NANIO_ACCESS_KEY"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["NANIO_SECRET_KEY"])
    arguments = ["serve", "--data-dir", str(tmp_path / "s3"), "--host", "127.0.0.1", "--port", str(port)]
    store = subprocess.Popen(
        [sys.executable, "-m", "nanio", *arguments, "--no-access-log", "--log-level", "warning"],
        env={"PATH": os.defpath, **keys},
    )
    front = Front(port)
    thread = threading.Thread(target=front.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        assert wait_until(lambda: not is_free(port), 90)
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1").create_bucket(
            Bucket="faults"
        )
        yield front
    finally:
        front.shutdown()
        front.server_close()
        store.terminate()
        store.wait(timeout=60)


@pytest.fixture
def settings(settings: Settings, front: Front) -> Settings:
    endpoint = quote(f"http://127.0.0.1:{front.server_address[1]}", safe="")
    return settings.model_copy(update={"storage_url": f"s3://faults/p?endpoint_url={endpoint}&region=us-east-1"})


def test_artifacts_wait_for_a_store_that_returns_503_for_a_while(
    room: Room, client: httpx2.Client, front: Front
) -> None:
    with (DATA / "rocket.jpg").open("rb") as file:
        submission = json.dumps({**IMAGES, "max_attempts": 1})
        uploaded = client.post("/files", data={"task": submission}, files={"file": ("rocket.jpg", file)}).json()
    short = room.note(uploaded["id"])
    params = uploaded["params"]
    front.failures = 3
    room.relay()
    room.worker(concurrency=2)
    room.wait_for(short, "succeeded")
    refused_at_first = front.refused
    front.failures = float("inf")
    long = room.submit(client, IMAGES["kind"], params=params)
    lasting = room.submit(client, IMAGES["kind"], params=params, max_attempts=1)
    room.wait_for(long, "retrying")
    room.wait_for(lasting, "failed")
    with (DATA / "rocket.jpg").open("rb") as file:
        refused_upload = client.post("/files", files={"file": ("rocket.jpg", file)})
    front.failures = 0
    room.ask("UPDATE tasks SET next_attempt_at = now() WHERE status = 'retrying'")

    statuses = room.settle()

    assert refused_at_first == 3
    assert [statuses[task_id] for task_id in (short, long, lasting)] == ["succeeded", "succeeded", "failed"]
    assert refused_upload.status_code == 503
    made = "SELECT task_id::text FROM files WHERE task_id IS NOT NULL ORDER BY 1"
    assert room.ask(made) == [(task_id,) for task_id in sorted((short, long))]
