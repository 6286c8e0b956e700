"""Our workers in a cluster of pytest-celery whose nodes are plain processes instead of containers.

Of a container, pytest-celery only needs its state, its log, and a way to kill it (`pytest_celery/api/base.py`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS, Api, Eventually, Parts
from tests.forked_parts import Part
from workers.celery_app import make_celery_app


class ProcessAsContainer:
    """A process, or a server that another fixture owns, with the methods of a container."""

    def __init__(self, url: str, process: Part | None = None, parts: Parts | None = None) -> None:
        self.celeryconfig = {"url": url, "host_url": url}
        self.name = "worker" if process else "broker"
        self.id = str(process.pid) if process else self.name
        self._process = process
        self._parts = parts

    @property
    def status(self) -> str:
        return "running" if self._process is None or self._process.poll() is None else "exited"

    def ready(self) -> bool:
        return self.status == "running"

    def logs(self) -> str:
        return self._parts.logs() if self._parts is not None else ""

    def kill(self, signal: str) -> None:
        assert self._process is not None
        subprocess.run(["kill", "-s", signal.removeprefix("SIG"), self.id], check=True)
        self._process.wait(timeout=PATIENCE_SECONDS)

    def reload(self) -> None:
        """Do nothing: no copy of the process's state is kept."""

    def teardown(self) -> None:
        """Do nothing: the fixture that started the process ends it."""


@pytest.fixture
def celery_broker_cluster(settings: Settings) -> Iterator[CeleryBrokerCluster]:
    yield CeleryBrokerCluster(CeleryTestBroker(ProcessAsContainer(settings.broker_url)))


@pytest.fixture
def celery_backend_cluster() -> None:
    """Set up nothing: there is no result backend, because Postgres has the results."""


@pytest.fixture
def celery_worker_cluster(
    celery_broker_cluster: CeleryBrokerCluster, settings: Settings, parts: Parts
) -> Iterator[CeleryWorkerCluster]:
    # pytest-celery pings its workers.
    parts.settings = settings.model_copy(update={"worker_remote_control": True})
    app = make_celery_app(settings)
    nodes = [
        CeleryTestWorker(ProcessAsContainer(settings.broker_url, parts.start_worker("files"), parts), app)
        for _ in range(2)
    ]
    yield CeleryWorkerCluster(*nodes)
    app.close()


def test_a_task_succeeds_on_a_cluster_of_pytest_celery(
    celery_setup: CeleryTestSetup, api: Api, parts: Parts, eventually: Eventually
) -> None:
    parts.start("relay")
    client = api.client("operator", "operator")
    workers = celery_setup.worker_cluster
    assert workers is not None
    workers[0].wait_for_log("worker_started", timeout=PATIENCE_SECONDS)
    eventually(lambda: len(celery_setup.app.control.ping(timeout=1)) == 2)
    assert celery_setup.ready(ping=False, control=True, docker=True)

    location = client.post("/tasks", json={"kind": "platform.ping", "params": {"echo": "hello"}}).headers["location"]

    assert client.get(location, params={"wait": 60}).json()["result"] == {"echo": "hello"}

    workers[0].kill()
    location = client.post("/tasks", json={"kind": "platform.ping", "params": {"echo": "again"}}).headers["location"]

    assert workers[0].container.status == "exited"
    assert client.get(location, params={"wait": 60}).json()["status"] == "succeeded"
