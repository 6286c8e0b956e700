"""`/queues` and `/workers`: what operators see and pause."""

from __future__ import annotations

import httpx2
import psycopg
import pytest

from shared.queries.queues import ADD_ACTIVITY
from shared.queries.signs_of_life import SHOW_WORKER_SIGN, WORKER_PREFIX
from shared.settings import Settings
from tests.api.conftest import ManualWorker, Submit

WORKER = "files-email-12-ab34@machine"


@pytest.fixture
def worker(manual_worker: ManualWorker) -> str:
    """The sign of life of a worker of two queues, which has just started."""
    details = '{"queues": ["files", "email"], "slots": 4, "version": "9.9.9"}'
    manual_worker.connection.execute(SHOW_WORKER_SIGN, {"part": WORKER_PREFIX + WORKER, "details": details})
    return WORKER


def _queue(operator: httpx2.Client, name: str = "files") -> dict[str, object]:
    answer = operator.get(f"/queues/{name}")
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def test_queues_show_what_waits_and_runs(
    operator: httpx2.Client, client: httpx2.Client, ping: Submit, manual_worker: ManualWorker, worker: str
) -> None:
    ping()
    ping(delay=60)
    manual_worker.claim(ping())
    manual_worker.connection.execute(ADD_ACTIVITY, {"queues": ["files"], "started": [7], "ended": [5]})

    answer = operator.get("/queues")

    assert answer.status_code == 200
    assert [queue["name"] for queue in answer.json()["items"]][:5] == [
        "email",
        "files",
        "reports",
        "webhooks",
        "maintenance",
    ]
    files = next(queue for queue in answer.json()["items"] if queue["name"] == "files")
    assert (files["depth"], files["scheduled"], files["running"]) == (1, 1, 1)
    assert (files["started_last_minute"], files["ended_last_hour"]) == (7, 5)
    assert (files["workers"], files["slots"], files["paused"]) == (1, 4, False)
    assert files["predicted_wait_seconds"] == 0
    assert 0 <= files["oldest_age_seconds"] < 60


def test_workers_show_what_they_run(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker, worker: str
) -> None:
    task_id = ping()
    assert manual_worker.claim(task_id)
    manual_worker.connection.execute(
        """UPDATE task_events SET data = data || jsonb_build_object('worker', %s::text)
        WHERE task_id = %s AND data->>'status' = 'running'""",
        (worker, task_id),
    )

    (shown,) = operator.get("/workers").json()["items"]

    assert (shown["name"], shown["host"], shown["queues"], shown["slots"]) == (worker, "machine", ["files", "email"], 4)
    assert (shown["alive"], shown["version"], shown["busy"]) == (True, "9.9.9", 1)
    assert [(task["task_id"], task["kind"]) for task in shown["running"]] == [(task_id, "platform.ping")]


def test_a_pause_holds_tasks_until_it_is_ended(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker
) -> None:
    first = operator.post("/queues/files/pause")
    again = operator.post("/queues/files/pause")

    assert (first.status_code, first.json()["paused"]) == (200, True)
    assert again.json()["paused_since"] == first.json()["paused_since"]
    assert _queue(operator, "email")["paused"] is False
    resumed = operator.post("/queues/files/resume")
    assert (resumed.status_code, resumed.json()["paused"], resumed.json()["paused_since"]) == (200, False, None)
    assert operator.post("/queues/files/resume").status_code == 200


def test_a_kind_is_paused_and_resumed(operator: httpx2.Client) -> None:
    paused = operator.post("/kinds/email.send/pause")

    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    assert [kind["kind"] for kind in operator.get("/queues").json()["paused_kinds"]] == ["email.send"]
    assert operator.post("/kinds/email.send/resume").json() == {
        "kind": "email.send",
        "paused": False,
        "paused_since": None,
    }
    assert operator.get("/queues").json()["paused_kinds"] == []


def test_canaries_cannot_be_paused(operator: httpx2.Client) -> None:
    assert operator.post("/kinds/platform.canary/pause").status_code == 409


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/queues"),
        ("GET", "/queues/files"),
        ("POST", "/queues/files/pause"),
        ("POST", "/queues/files/resume"),
        ("POST", "/kinds/email.send/pause"),
        ("POST", "/kinds/email.send/resume"),
        ("GET", "/workers"),
    ],
)
def test_queues_and_workers_are_for_operators(client: httpx2.Client, method: str, path: str) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")


@pytest.mark.parametrize("path", ["/queues/nope/pause", "/queues/nope/resume", "/kinds/a.b/pause", "/kinds/a.b/resume"])
def test_an_unknown_queue_or_kind_is_not_found(operator: httpx2.Client, path: str) -> None:
    assert operator.post(path).status_code == 404


def test_pauses_survive_a_restart_of_everything(operator: httpx2.Client, module_settings: Settings) -> None:
    operator.post("/queues/reports/pause")

    with psycopg.connect(module_settings.database_url) as connection:
        stored = connection.execute("SELECT target, name FROM pauses").fetchall()

    assert stored == [("queue", "reports")]
    operator.post("/queues/reports/resume")
