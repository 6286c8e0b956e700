"""Flower, started as the command starts it, in front of a real broker."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.local_stack.broker import BrokerServer
from cli.local_stack.child_process import wait_until
from cli.local_stack.free_ports import choose_port
from cli.local_stack.postgres import PostgresServer
from shared.contracts.catalog import list_kinds
from shared.contracts.kind import QUEUES
from shared.database.connections import connect_hot
from shared.errors import ConfigurationError
from shared.identifiers import new_id
from shared.queries import hot_tasks
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, submission_document
from tests.conftest import PATIENCE_SECONDS, ROOT, Eventually, new_database
from workers.flower.login import MAX_REFUSALS
from workers.flower.serve import run_flower

PASSWORD = "a-password-of-the-test"


@dataclass
class RunningFlower:
    broker: BrokerServer
    process: subprocess.Popen[bytes]
    base_url: str
    log: Path

    def read_log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def status(self, path: str, credentials: str | None = None, method: str = "GET", client: str = "192.0.2.1") -> int:
        """Return the status of an answer. The request seems to come through a proxy from `client`."""
        request = urllib.request.Request(self.base_url + path, method=method)
        request.add_header("X-Forwarded-For", client)
        if credentials is not None:
            request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def get(self, path: str) -> str:
        """Return the body of an answer to a request with the right password."""
        request = urllib.request.Request(self.base_url + path)
        request.add_header("Authorization", "Basic " + base64.b64encode(f"operator:{PASSWORD}".encode()).decode())
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())

    def answers(self) -> bool:
        try:
            return self.status("/healthcheck") == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database for the tests of this file."""
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[RunningFlower]:
    log = tmp_path_factory.mktemp("flower") / "log"
    with BrokerServer(tmp_path_factory.mktemp("broker")) as broker, log.open("wb") as output:
        port = choose_port(None)
        environment = os.environ | {
            "TASKMILL_BROKER_URL": broker.url,
            "TASKMILL_DATABASE_URL": database_url,
            "TASKMILL_FLOWER_PORT": str(port),
            "TASKMILL_FLOWER_PASSWORD": PASSWORD,
            "TASKMILL_FLOWER_URL_PREFIX": "flower",
            "TASKMILL_LOG_FORMAT": "json",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "flower"], env=environment, cwd=ROOT, stdout=output, stderr=output
        )
        running = RunningFlower(broker, process, f"http://127.0.0.1:{port}/flower", log)
        try:
            assert wait_until(lambda: process.poll() is not None or running.answers(), PATIENCE_SECONDS)
            assert process.poll() is None
            yield running
        finally:
            process.kill()
            process.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/metrics", "/api/workers", "/static/css/flower.css"])
@pytest.mark.parametrize("credentials", [None, "operator:wrong", "operator:", "üser:pässword"])
def test_nothing_is_shown_without_the_password(flower: RunningFlower, path: str, credentials: str | None) -> None:
    client = f"198.51.100.{zlib.crc32(f'{path} {credentials}'.encode()) % 256}"

    assert flower.status(path, credentials, client=client) == 401


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/metrics", "/api/workers", "/static/css/flower.css"])
def test_everything_is_shown_with_the_password(flower: RunningFlower, path: str) -> None:
    assert flower.status(path, f"operator:{PASSWORD}") == 200


def test_a_health_check_needs_no_password(flower: RunningFlower) -> None:
    assert flower.status("/healthcheck") == 200


def test_the_buttons_of_flower_are_switched_off(flower: RunningFlower) -> None:
    for path in ("/api/task/revoke/an-id", "/api/task/send-task/files.inspect", "/api/worker/shutdown/any"):
        assert flower.status(path, f"operator:{PASSWORD}", method="POST") == 403


def test_an_address_that_guesses_passwords_is_throttled(flower: RunningFlower) -> None:
    guesser, other = "203.0.113.7", "203.0.113.8"

    guesses = [flower.status("/", f"operator:guess-{number}", client=guesser) for number in range(MAX_REFUSALS + 2)]

    assert guesses == [401] * MAX_REFUSALS + [429] * 2
    assert flower.status("/", f"operator:{PASSWORD}", client=guesser) == 429
    assert flower.status("/", f"operator:{PASSWORD}", client=other) == 200
    assert flower.status("/healthcheck", client=guesser) == 200


def test_the_queues_show_the_backlog_of_the_database(flower: RunningFlower, database_url: str) -> None:
    submit_pings(Settings(database_url=database_url), 3)

    lengths = json.loads(flower.get("/api/queues/length"))["active_queues"]

    backlog = dict.fromkeys(QUEUES, 0) | {"files": 3}
    assert {queue["name"]: queue["messages"] for queue in lengths} == backlog
    rows = re.findall(r'<tr id="(\w+)">\s*<td>\w+</td>\s*<td[^>]*>(.*?)</td>', flower.get("/broker"), re.DOTALL)
    assert dict(rows) == {queue: str(tasks) for queue, tasks in backlog.items()}


def submit_pings(settings: Settings, number: int) -> None:
    owner, kind = new_id(), list_kinds()["platform.ping"]
    tasks = [make_task("platform.ping", kind, b"{}", "files", TaskOptions(), owner, owner) for _ in range(number)]
    with connect_hot(settings, "test") as connection:
        connection.execute(hot_tasks.SUBMIT, {"document": submission_document(tasks)})


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_password_is_in_no_argument(flower: RunningFlower) -> None:
    arguments = Path(f"/proc/{flower.process.pid}/cmdline").read_bytes()

    assert b"flower" in arguments
    assert PASSWORD.encode() not in arguments


def test_an_outage_of_the_broker_is_logged_and_does_not_delay_the_end(
    flower: RunningFlower, eventually: Eventually
) -> None:
    flower.broker.kill()
    eventually(lambda: [line for line in flower.read_log() if line["event"] == "broker_away"])

    flower.process.send_signal(signal.SIGTERM)

    assert flower.process.wait(PATIENCE_SECONDS) == 0
    events = [line["event"] for line in flower.read_log()]
    assert events[0] == "flower_started"
    assert events[-1] == "flower_stopped"
    assert events.count("broker_away") <= 2
    assert {line["part"] for line in flower.read_log()} == {"flower"}


@pytest.mark.parametrize(
    "wrong", [{"flower_user": "a:b"}, {"flower_user": ""}, {"flower_user": "jürgen"}, {"flower_password": "pässword"}]
)
def test_credentials_that_no_browser_could_send_are_refused_at_start(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="TASKMILL_FLOWER_"):
        run_flower(Settings(**wrong))
