"""The configuration of nginx, in a real nginx in front of a small server that returns what it received."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from api.http.security_headers import CONTENT_SECURITY_POLICY, SECURITY_HEADERS
from cli.local_stack.child_process import wait_until
from cli.local_stack.free_ports import choose_port
from deploy.validate import ROOT, copy_nginx_configuration
from shared.settings import Settings
from tests.needed_programs import find_program

pytestmark = pytest.mark.needs_program("nginx", debian="nginx-light")

TOO_LARGE = {"type": "/problems/too-large"}


class Upstream(BaseHTTPRequestHandler):
    """Stands for both the API and Flower: responds with the request that it received."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("/events"):
            self._send_events()
        elif self.path == "/slow":
            time.sleep(1.5)
            self._answer(200, {"slow": True})
        else:
            self._answer(200, {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}})

    def do_POST(self) -> None:
        if self.path == "/refused":
            # Answered as the API does: before the body is read.
            self.close_connection = True
            self._answer(413, TOO_LARGE, "application/problem+json")
            return
        if "Content-Length" not in self.headers:
            self._answer(200, {"bytes": self._read_chunks()})
            return
        first = self.rfile.read(5)
        self.server.first_bytes_arrived.set()  # type: ignore[attr-defined]
        rest = self.rfile.read(int(self.headers["Content-Length"]) - 5)
        self._answer(200, {"bytes": len(first) + len(rest)})

    def _read_chunks(self) -> int:
        total = 0
        while size := int(self.rfile.readline() or b"0", 16):
            total += len(self.rfile.read(size + 2)) - 2
        self.rfile.readline()
        return total

    def _send_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        self.wfile.flush()
        self.server.may_go_on.wait(10)  # type: ignore[attr-defined]
        self.wfile.write(b"data: last\n\n")
        self.close_connection = True

    def _answer(self, status: int, body: object, media_type: str = "application/json") -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"strong"')
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class UpstreamServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Upstream)
        self.first_bytes_arrived = threading.Event()
        self.may_go_on = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: nginx hangs up when its client does."""


@dataclass
class FrontDoor:
    port: int
    upstream: UpstreamServer
    access_log: Path
    opened: list[HTTPConnection] = field(default_factory=list)

    def connect(self) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        self.opened.append(connection)
        return connection

    def get(self, path: str, headers: dict[str, str] | None = None) -> HTTPResponse:
        connection = self.connect()
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse()


@contextmanager
def run_nginx(folder: Path, upstream_address: str) -> Iterator[int]:
    """Run nginx with the configuration of production, but for its addresses; gives its port."""
    program = find_program("nginx")
    assert program is not None
    port = choose_port(None)
    replacements = {
        "api:8000": upstream_address,
        "flower:5555": upstream_address,
        "listen 8080": f"listen 127.0.0.1:{port}",
        "127.0.0.1:8081": f"127.0.0.1:{choose_port(None)}",
        "access_log /dev/stdout json": f"access_log {folder}/access.log json",
    }
    copy_nginx_configuration(folder, "listen-http.conf", replacements)
    with (folder / "error.log").open("wb") as errors:
        argv = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=errors)
    try:
        assert wait_until(lambda: process.poll() is not None or _accepts(port), 90)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def running_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    upstream = UpstreamServer()
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("nginx")
    try:
        with run_nginx(folder, f"127.0.0.1:{upstream.server_port}") as port:
            yield FrontDoor(port, upstream, folder / "access.log")
    finally:
        upstream.shutdown()
        upstream.server_close()


@pytest.fixture
def door(running_nginx: FrontDoor) -> Iterator[FrontDoor]:
    yield running_nginx
    while running_nginx.opened:
        running_nginx.opened.pop().close()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_path_and_query_reach_the_api_unchanged(door: FrontDoor) -> None:
    answer = json.loads(door.get("/tasks/a%2Fb?wait=60&ids=1,2").read())

    assert answer["path"] == "/tasks/a%2Fb?wait=60&ids=1,2"


def test_what_a_client_claims_about_its_address_is_not_passed_on(door: FrontDoor) -> None:
    lies = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Real-IP": "203.0.113.9",
        "Forwarded": "for=203.0.113.9",
    }

    headers = json.loads(door.get("/tasks", lies).read())["headers"]

    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-real-ip"] == "127.0.0.1"
    assert headers["host"] == f"127.0.0.1:{door.port}"
    assert "x-forwarded-host" not in headers
    assert "forwarded" not in headers


def test_credentials_and_request_ids_are_passed_on(door: FrontDoor) -> None:
    sent = {"Authorization": "Bearer tm_x", "X-Request-ID": "mine", "Idempotency-Key": "k", "If-None-Match": '"1"'}

    headers = json.loads(door.get("/tasks", sent).read())["headers"]

    assert {name.lower(): value for name, value in sent.items()}.items() <= headers.items()


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/x/../metrics",
        "/flower/metrics",
        "/flower//metrics",
        "/flower/healthcheck",
    ],
)
def test_metrics_are_not_served_in_any_spelling(door: FrontDoor, path: str) -> None:
    response = door.get(path)

    assert response.status == 404
    assert response.headers.get_content_type() == "application/problem+json"
    problem = json.loads(response.read())
    assert problem["type"] == "/problems/not-found"
    assert len(problem["instance"]) == len("urn:uuid:") + 36


def test_flower_is_served_under_its_prefix(door: FrontDoor) -> None:
    assert json.loads(door.get("/flower/workers").read())["path"] == "/flower/workers"
    assert door.get("/flower").headers["Location"].endswith("/flower/")


def test_headers_of_the_api_are_passed_on_unchanged(door: FrontDoor) -> None:
    response = door.get("/tasks", {"Accept-Encoding": "gzip"})

    assert response.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert response.headers["ETag"] == '"strong"'
    assert response.headers["Content-Encoding"] is None
    assert response.headers["Server"] == "nginx"


@pytest.mark.parametrize(
    ("path", "too_many"),
    [
        ("/reports", Settings().max_json_bytes + 1),
        ("/tasks", Settings().max_json_bytes + 1),
        ("/tasks/batch", Settings().max_batch_bytes + 1),
        ("/workflows", Settings().max_batch_bytes + 1),
        ("/files", Settings().max_upload_bytes + (2 << 20)),
        ("/uploads", Settings().max_upload_bytes + (2 << 20)),
    ],
)
def test_a_body_over_the_limit_is_refused_before_it_is_sent(door: FrontDoor, path: str, too_many: int) -> None:
    connection = door.connect()
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(too_many))
    connection.endheaders(b"x" * 1000)

    response = connection.getresponse()

    assert response.status == 413
    assert response.headers.get_content_type() == "application/problem+json"
    assert json.loads(response.read())["type"] == "/problems/too-large"


@pytest.mark.parametrize(
    ("path", "bytes_"),
    [
        ("/reports", Settings().max_json_bytes),
        ("/tasks/batch", Settings().max_batch_bytes),
        ("/workflows", Settings().max_batch_bytes),
    ],
)
def test_a_body_of_exactly_the_limit_is_passed_on(door: FrontDoor, path: str, bytes_: int) -> None:
    connection = door.connect()
    connection.request("POST", path, body=b"x" * bytes_)

    assert json.loads(connection.getresponse().read()) == {"bytes": bytes_}


@pytest.mark.parametrize(
    ("request_bytes", "status", "problem"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not-found"),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method-not-allowed"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad-request"),
        (b"G=T / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-request"),
        (b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "bad-request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n", 400, "bad-request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n", 413, "too-large"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri-too-long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431, "headers-too-large"),
    ],
)
def test_an_error_of_nginx_has_security_headers_and_a_logged_request_id(
    door: FrontDoor, request_bytes: bytes, status: int, problem: str
) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as connection:
        connection.sendall(request_bytes)
        response = HTTPResponse(connection)
        response.begin()
        document = json.loads(response.read())

    assert (response.status, document["status"], document["type"]) == (status, status, f"/problems/{problem}")
    for name, value in [*SECURITY_HEADERS, CONTENT_SECURITY_POLICY]:
        assert response.headers.get_all(name.decode()) == [value.decode()]
    request_id = response.headers["X-Request-ID"]
    assert document["instance"] == f"urn:uuid:{request_id}"
    wait_until(lambda: request_id in door.access_log.read_text(), 10)
    assert "problems" not in door.access_log.read_text()
    (entry,) = [
        line for line in map(json.loads, door.access_log.read_text().splitlines()) if line["request_id"] == request_id
    ]
    assert entry["status"] == status


@pytest.mark.parametrize("given", [None, "mine-1", "not sane: <script>"])
def test_nginx_and_the_api_use_the_same_request_id(door: FrontDoor, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}

    passed = json.loads(door.get("/tasks", headers).read())["headers"]["x-request-id"]

    assert passed == given if given == "mine-1" else len(passed) == 36
    wait_until(lambda: passed in door.access_log.read_text(), 10)
    assert passed in door.access_log.read_text()


def test_a_chunked_body_is_passed_on(door: FrontDoor) -> None:
    connection = door.connect()
    connection.request("POST", "/reports", body=iter([b"x" * 100_000] * 3), encode_chunked=True)

    assert json.loads(connection.getresponse().read()) == {"bytes": 300_000}


def test_a_chunked_body_over_the_limit_is_refused(door: FrontDoor) -> None:
    connection = door.connect()
    chunks = (b"x" * (1 << 19) for _ in range(4))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", "/reports", body=chunks, encode_chunked=True)

    assert connection.getresponse().status == 413


def test_a_refusal_of_the_api_is_passed_on_before_the_body_was_read(door: FrontDoor) -> None:
    connection = door.connect()
    connection.putrequest("POST", "/refused")
    connection.putheader("Content-Length", "2000")
    connection.endheaders(b"x" * 1000)

    response = connection.getresponse()

    assert response.status == 413
    assert json.loads(response.read()) == TOO_LARGE


@pytest.mark.parametrize("path", ["/files", "/tasks/batch"])
def test_a_body_is_passed_on_while_it_is_being_sent(door: FrontDoor, path: str) -> None:
    door.upstream.first_bytes_arrived.clear()
    connection = door.connect()
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", "10")
    connection.endheaders(b"12345")

    assert door.upstream.first_bytes_arrived.wait(10)
    connection.send(b"67890")
    assert json.loads(connection.getresponse().read()) == {"bytes": 10}


@pytest.mark.parametrize("path", ["/tasks/0199c0de/events", "/batches/0199c0de/events", "/events"])
def test_events_are_passed_on_one_by_one(door: FrontDoor, path: str) -> None:
    door.upstream.may_go_on.clear()
    response = door.get(path)

    assert response.readline() == b"data: first\n"
    door.upstream.may_go_on.set()
    assert response.read().endswith(b"data: last\n\n")


@pytest.mark.parametrize("path", ["/tasks/0199c0de/ws", "/events/ws"])
def test_the_handshake_of_a_web_socket_is_passed_on(door: FrontDoor, path: str) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }

    passed = json.loads(door.get(path, handshake).read())["headers"]

    assert passed["connection"] == "upgrade"
    assert {name.lower(): value for name, value in handshake.items() if name != "Connection"}.items() <= passed.items()


@pytest.mark.parametrize("path", ["/tasks/0199c0de/events", "/tasks/0199c0de/ws"])
def test_a_stream_token_is_in_no_log(tmp_path: Path, path: str) -> None:
    with run_nginx(tmp_path, f"127.0.0.1:{choose_port(None)}") as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", f"{path}?token=secret-token")
        assert connection.getresponse().status == 503
        connection.close()

    assert path in (tmp_path / "access.log").read_text()
    assert "secret-token" not in (tmp_path / "access.log").read_text() + (tmp_path / "error.log").read_text()


def test_a_slow_answer_is_passed_on(door: FrontDoor) -> None:
    assert door.get("/slow").status == 200


def test_an_api_that_is_away_is_a_problem_document(tmp_path: Path) -> None:
    with run_nginx(tmp_path, f"127.0.0.1:{choose_port(None)}") as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/tasks")
        response = connection.getresponse()
        problem = json.loads(response.read())
        connection.close()

    assert (response.status, problem["type"]) == (503, "/problems/unavailable")
    assert response.headers["Retry-After"] == "5"
    assert response.headers["X-Frame-Options"] == "DENY"


def test_the_access_log_has_no_query(tmp_path: Path) -> None:
    with run_nginx(tmp_path, f"127.0.0.1:{choose_port(None)}") as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/tasks?tag=a-person")
        connection.getresponse().read()
        connection.close()
    entry = json.loads((tmp_path / "access.log").read_text())

    assert (entry["path"], entry["status"]) == ("/tasks", 503)
    assert "a-person" not in json.dumps(entry)


def test_the_commands_for_nginx_without_containers_work(door: FrontDoor, tmp_path: Path) -> None:
    found = re.search(r"```sh\n(from=.*?)```", (ROOT / "docs" / "production.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    port = choose_port(None)
    commands = found[1]
    # The test has files and a port of its own, where two nginx on one machine would share them.
    apart = f"s|/tmp/nginx|{tmp_path}/nginx-|; s|127.0.0.1:8081|127.0.0.1:{choose_port(None)}|"
    replacements = {
        "/srv/taskmill": str(ROOT),
        "/etc/nginx/taskmill": f"{tmp_path}/nginx",
        "/var/log/nginx": str(tmp_path),
        "listen 80/": f"listen 127.0.0.1:{port}/",
        "127.0.0.1:8000": f"127.0.0.1:{door.upstream.server_port}",
        "nginx -t": f"sed -i '{apart}' \"$to/nginx.conf\"\nnginx -t",
    }
    for old, new in replacements.items():
        assert old in commands
        commands = commands.replace(old, new)
    nginx = find_program("nginx")
    assert nginx is not None
    environment = os.environ | {"PATH": f"{Path(nginx).parent}{os.pathsep}{os.environ['PATH']}"}

    outcome = subprocess.run(["/bin/sh", "-eu", "-c", commands], env=environment, capture_output=True, text=True)
    try:
        assert outcome.returncode == 0, outcome.stderr
        assert wait_until(lambda: _accepts(port), 20)
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/tasks")
        assert json.loads(connection.getresponse().read())["path"] == "/tasks"
        connection.close()
    finally:
        subprocess.run([nginx, "-c", f"{tmp_path}/nginx/nginx.conf", "-s", "stop"], capture_output=True)
    assert wait_until(lambda: '"/tasks"' in (tmp_path / "taskmill.log").read_text(), 10)
