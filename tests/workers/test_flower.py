"""Flower, started as the command starts it, in front of a real broker."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.local_stack.broker import BrokerServer
from cli.local_stack.child_process import wait_until
from cli.local_stack.free_ports import choose_port
from shared.errors import ConfigurationError
from shared.settings import Settings
from workers.flower import run_flower

PASSWORD = "a-password-of-the-test"
START_SECONDS = 60


@dataclass
class RunningFlower:
    broker: BrokerServer
    process: subprocess.Popen[bytes]
    base_url: str

    def status(self, path: str, credentials: str | None = None, method: str = "GET") -> int:
        request = urllib.request.Request(self.base_url + path, method=method)
        if credentials is not None:
            request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def answers(self) -> bool:
        try:
            return self.status("/healthcheck") == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFlower]:
    with BrokerServer(tmp_path_factory.mktemp("broker")) as broker:
        port = choose_port(None)
        environment = os.environ | {
            "TASKMILL_BROKER_URL": broker.url,
            "TASKMILL_FLOWER_PORT": str(port),
            "TASKMILL_FLOWER_PASSWORD": PASSWORD,
            "TASKMILL_FLOWER_URL_PREFIX": "flower",
        }
        root = Path(__file__).parents[2]
        process = subprocess.Popen([sys.executable, "-m", "cli.main", "flower"], env=environment, cwd=root)
        running = RunningFlower(broker, process, f"http://127.0.0.1:{port}/flower")
        try:
            assert wait_until(lambda: process.poll() is not None or running.answers(), START_SECONDS)
            assert process.poll() is None
            yield running
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/metrics", "/api/workers", "/static/css/flower.css"])
@pytest.mark.parametrize("credentials", [None, "operator:wrong", "operator:", "üser:pässword"])
def test_nothing_is_shown_without_the_password(flower: RunningFlower, path: str, credentials: str | None) -> None:
    assert flower.status(path, credentials) == 401


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/metrics", "/api/workers", "/static/css/flower.css"])
def test_all_is_shown_with_the_password(flower: RunningFlower, path: str) -> None:
    assert flower.status(path, f"operator:{PASSWORD}") == 200


def test_a_health_check_needs_no_password(flower: RunningFlower) -> None:
    assert flower.status("/healthcheck") == 200


def test_its_buttons_are_switched_off(flower: RunningFlower) -> None:
    for path in ("/api/task/revoke/an-id", "/api/task/send-task/files.inspect", "/api/worker/shutdown/any"):
        assert flower.status(path, f"operator:{PASSWORD}", method="POST") == 403


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_password_stands_in_no_argument(flower: RunningFlower) -> None:
    arguments = Path(f"/proc/{flower.process.pid}/cmdline").read_bytes()

    assert b"flower" in arguments
    assert PASSWORD.encode() not in arguments


def test_it_ends_soon_when_told_to_even_while_the_broker_is_down(flower: RunningFlower) -> None:
    flower.broker.kill()

    flower.process.send_signal(signal.SIGTERM)

    assert flower.process.wait(10) == 0


@pytest.mark.parametrize(
    "wrong", [{"flower_user": "a:b"}, {"flower_user": ""}, {"flower_user": "jürgen"}, {"flower_password": "pässword"}]
)
def test_credentials_that_no_browser_could_send_are_refused_at_start(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="TASKMILL_FLOWER_"):
        run_flower(Settings(**wrong))
