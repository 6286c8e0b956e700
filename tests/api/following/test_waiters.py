"""`GET /tasks/<id>`: entity tags, and waiting for a task to be done or to change."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import httpx2
import pytest

from api.following import waiters as wakeups
from api.following.waiters import LISTENING_POLL_SECONDS
from shared.settings import Settings
from tests.api.conftest import ErrorsOf, ManualWorker, OpenManualWorker, PublishWakeup, Submit, count_waiters
from tests.conftest import PATIENCE_SECONDS, Eventually, ServeApi

SOON_SECONDS = 30
"""Much less than the 60 seconds of the longest wait, and more than a busy machine needs."""


@contextmanager
def soon(act: Callable[[], object], seconds: float = 0.3) -> Iterator[None]:
    """Call a function from another thread after `seconds`, while the block waits."""
    timer = threading.Timer(seconds, act)
    timer.start()
    yield
    timer.join(PATIENCE_SECONDS)


@pytest.fixture(scope="module", autouse=True)
def rare_polls() -> Iterator[None]:
    """Raise the interval of the slow poll, so that a request which is answered soon was woken by a message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wakeups, "LISTENING_POLL_SECONDS", 600.0)
        yield


def timed(ask: Callable[[], httpx2.Response]) -> tuple[httpx2.Response, float]:
    begun = time.monotonic()
    answer = ask()
    return answer, time.monotonic() - begun


# Entity tags


def test_the_etag_is_strong_and_changes_with_anything_that_the_body_shows(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    seen = [operator.get(f"/tasks/{task_id}")]
    for step in (
        lambda: manual_worker.claim(task_id),
        lambda: manual_worker.report(task_id, 10),
        lambda: manual_worker.report(task_id, 10, "a word"),
        lambda: operator.post(f"/tasks/{task_id}/cancel"),
        lambda: manual_worker.end(task_id, "succeeded", result={"echo": None}),
    ):
        step()
        seen.append(operator.get(f"/tasks/{task_id}"))

    tags = [answer.headers["etag"] for answer in seen]
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)
    versions = [int(tag.strip('"')) for tag in tags]
    assert versions == sorted(set(versions))
    assert all(a.json() != b.json() for a, b in itertools.pairwise(seen))


def test_a_heartbeat_does_not_change_the_etag(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    before = operator.get(f"/tasks/{task_id}")

    manual_worker.renew(task_id)
    manual_worker.renew(task_id)

    after = operator.get(f"/tasks/{task_id}")
    assert (after.headers["etag"], after.json()) == (before.headers["etag"], before.json())


def test_a_caller_with_the_current_etag_is_answered_304(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    etag = operator.get(f"/tasks/{task_id}").headers["etag"]

    for given in (etag, f"W/{etag}", "*", f'"x", {etag}', f'{etag},"x"'):
        answer = operator.get(f"/tasks/{task_id}", headers={"If-None-Match": given})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
        assert answer.headers["retry-after"]
        assert "content-type" not in answer.headers
    lines = [("If-None-Match", etag), ("If-None-Match", '"x"')]
    assert operator.get(f"/tasks/{task_id}", headers=lines).status_code == 304
    for given in ('"0"', "x", "", etag.strip('"'), '"' + "9" * 40 + '"'):
        assert operator.get(f"/tasks/{task_id}", headers={"If-None-Match": given}).status_code == 200

    manual_worker.succeed(task_id)
    assert operator.get(f"/tasks/{task_id}", headers={"If-None-Match": etag}).status_code == 200


def test_an_etag_does_not_reveal_another_organizations_task(client: httpx2.Client, ping: Submit) -> None:
    assert client.get(f"/tasks/{ping()}", headers={"If-None-Match": "*"}).status_code == 404


def test_a_task_that_is_not_done_is_answered_with_retry_after(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    live = operator.get(f"/tasks/{task_id}")
    manual_worker.fail(task_id)
    done = operator.get(f"/tasks/{task_id}")

    assert (live.status_code, live.headers["retry-after"]) == (200, "1")
    assert done.status_code == 200 and "retry-after" not in done.headers


# Waiting


@pytest.mark.parametrize(
    "wait", ["0", "61", "-1", "1.0", "1e1", "x", "", "+5", " 5", "١", "1" * 30, "000000001" + "9" * 3]
)
def test_a_wait_out_of_bounds_is_refused(operator: httpx2.Client, errors_of: ErrorsOf, ping: Submit, wait: str) -> None:
    answer = operator.get(f"/tasks/{ping()}", params={"wait": wait})

    assert errors_of(answer) == {"query:wait": "out_of_range"}


def test_waiting_for_a_done_task_is_answered_at_once(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.succeed(task_id)

    answer, seconds = timed(lambda: operator.get(f"/tasks/{task_id}", params={"wait": 60}))

    assert answer.json()["done"] and seconds < SOON_SECONDS


def test_a_waiting_request_is_answered_when_a_worker_publishes_a_wakeup(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, publish_wakeup: PublishWakeup
) -> None:
    task_id = ping()

    def finish() -> None:
        manual_worker.succeed(task_id)
        publish_wakeup(task_id)

    with soon(finish):
        answer, seconds = timed(lambda: operator.get(f"/tasks/{task_id}", params={"wait": 60}))

    assert answer.json()["status"] == "succeeded"
    assert seconds < SOON_SECONDS


def test_waiting_for_the_end_is_not_ended_by_progress_or_a_wakeup_without_change(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, publish_wakeup: PublishWakeup
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)

    def progress() -> None:
        publish_wakeup(task_id)
        manual_worker.report(task_id, 50)
        publish_wakeup(task_id)

    with soon(progress):
        answer, seconds = timed(lambda: operator.get(f"/tasks/{task_id}", params={"wait": 4}))

    assert (answer.status_code, answer.json()["progress"]["percent"]) == (200, 50)
    assert 3.95 < seconds < SOON_SECONDS


@pytest.mark.parametrize("given", ["{etag}", "W/{etag}", '"x", {etag}'])
def test_waiting_with_an_etag_is_ended_by_any_change(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, publish_wakeup: PublishWakeup, given: str
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    etag = operator.get(f"/tasks/{task_id}").headers["etag"]

    def progress() -> None:
        manual_worker.report(task_id, 50)
        publish_wakeup(task_id)

    with soon(progress):
        answer, seconds = timed(
            lambda: operator.get(
                f"/tasks/{task_id}", params={"wait": 60}, headers={"If-None-Match": given.format(etag=etag)}
            )
        )

    assert (answer.status_code, answer.json()["progress"]["percent"]) == (200, 50)
    assert seconds < SOON_SECONDS


def test_waiting_with_an_older_etag_is_answered_at_once(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    etag = operator.get(f"/tasks/{task_id}").headers["etag"]
    manual_worker.claim(task_id)

    answer, seconds = timed(
        lambda: operator.get(f"/tasks/{task_id}", params={"wait": 60}, headers={"If-None-Match": etag})
    )

    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert seconds < SOON_SECONDS


def test_after_the_wait_the_answer_is_the_one_without_waiting(operator: httpx2.Client, ping: Submit) -> None:
    task_id = ping()
    etag = operator.get(f"/tasks/{task_id}").headers["etag"]

    plain, seconds = timed(lambda: operator.get(f"/tasks/{task_id}", params={"wait": 1}))
    tagged = operator.get(f"/tasks/{task_id}", params={"wait": 1}, headers={"If-None-Match": etag})

    assert (plain.status_code, plain.json()["status"], plain.headers["retry-after"]) == (200, "queued", "1")
    assert 0.95 < seconds < SOON_SECONDS
    assert (tagged.status_code, tagged.headers["etag"]) == (304, etag)


def test_a_cancel_wakes_waiting_requests(operator: httpx2.Client, ping: Submit) -> None:
    task_id = ping()

    with soon(lambda: operator.post(f"/tasks/{task_id}/cancel")):
        answer, seconds = timed(lambda: operator.get(f"/tasks/{task_id}", params={"wait": 60}))

    assert answer.json()["status"] == "cancelled"
    assert seconds < SOON_SECONDS


def test_nothing_is_kept_for_a_client_that_disconnects_while_waiting(
    operator: httpx2.Client, ping: Submit, eventually: Eventually
) -> None:
    url, key = operator.base_url, operator.headers["Authorization"]
    request = f"GET /tasks/{ping(delay=3600)}?wait=60 HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: {key}\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(request.encode())
        eventually(lambda: count_waiters() == 1)
    eventually(lambda: count_waiters() == 0)


def test_waiting_for_a_task_that_is_deleted_ends_with_410(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, publish_wakeup: PublishWakeup
) -> None:
    task_id = ping()

    def erase() -> None:
        manual_worker.succeed(task_id)
        operator.delete(f"/tasks/{task_id}")
        publish_wakeup(task_id)

    with soon(erase):
        answer, seconds = timed(lambda: operator.get(f"/tasks/{task_id}", params={"wait": 60}))

    assert (answer.status_code, seconds < SOON_SECONDS) == (410, True)


def test_waiting_for_another_organizations_task_ends_at_once(client: httpx2.Client, ping: Submit) -> None:
    answer, seconds = timed(lambda: client.get(f"/tasks/{ping()}", params={"wait": 60}))

    assert (answer.status_code, seconds < SOON_SECONDS) == (404, True)


# Prefer


def test_a_preference_to_wait_is_applied_and_acknowledged(operator: httpx2.Client, ping: Submit) -> None:
    task_id = ping()

    for given in ("wait=1", "respond-async, wait=1", 'wait="1"', "Wait = 1; x=y"):
        answer, seconds = timed(lambda given=given: operator.get(f"/tasks/{task_id}", headers={"Prefer": given}))  # type: ignore[misc]
        assert answer.headers["preference-applied"] == "wait=1"
        assert 0.95 < seconds < SOON_SECONDS


def test_a_preference_in_a_second_header_field_is_applied_too(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.succeed(task_id)

    answer = operator.get(f"/tasks/{task_id}", headers=[("Prefer", "wait=7"), ("Prefer", "respond-async")])

    assert answer.headers["preference-applied"] == "wait=7"


def test_a_preference_beyond_the_longest_wait_is_clamped(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.succeed(task_id)

    for given in ("wait=61", "wait=99999999999999999999"):
        answer = operator.get(f"/tasks/{task_id}", headers={"Prefer": given})
        assert answer.headers["preference-applied"] == "wait=60"


@pytest.mark.parametrize(
    "given", ["wait=0", "wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "waits=5", "respond-async", ""]
)
def test_an_invalid_preference_is_ignored(operator: httpx2.Client, ping: Submit, given: str) -> None:
    task_id = ping()

    answer, seconds = timed(lambda: operator.get(f"/tasks/{task_id}", headers={"Prefer": given}))

    assert answer.status_code == 200 and seconds < SOON_SECONDS
    assert "preference-applied" not in answer.headers


def test_the_query_overrides_the_preference(operator: httpx2.Client, ping: Submit) -> None:
    answer, seconds = timed(lambda: operator.get(f"/tasks/{ping()}?wait=1", headers={"Prefer": "wait=60"}))

    assert "preference-applied" not in answer.headers and seconds < SOON_SECONDS


# Without the broker


def test_without_the_broker_waiting_requests_are_woken_by_the_slow_poll(
    settings: Settings, serve: ServeApi, open_manual_worker: OpenManualWorker
) -> None:
    silent = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with serve(silent) as api, open_manual_worker(silent) as manual_worker:
        client = api.client("operator", "operator")
        task_id = client.post("/tasks", json={"kind": "platform.ping"}).json()["id"]

        with soon(lambda: manual_worker.succeed(task_id)):
            answer, seconds = timed(lambda: client.get(f"/tasks/{task_id}", params={"wait": 60}))

    assert answer.json()["status"] == "succeeded"
    assert seconds < SOON_SECONDS


def test_a_missed_wakeup_delays_waiting_requests_by_a_few_seconds(
    settings: Settings, serve: ServeApi, open_manual_worker: OpenManualWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "LISTENING_POLL_SECONDS", LISTENING_POLL_SECONDS)
    with serve(settings) as api, open_manual_worker(settings) as manual_worker:
        client = api.client("operator", "operator")
        task_id = client.post("/tasks", json={"kind": "platform.ping"}).json()["id"]

        with soon(lambda: manual_worker.succeed(task_id)):
            answer, seconds = timed(lambda: client.get(f"/tasks/{task_id}", params={"wait": 60}))

    assert answer.json()["status"] == "succeeded"
    assert seconds < SOON_SECONDS


def test_a_wait_ends_when_its_client_disconnects(settings: Settings, serve: ServeApi) -> None:
    with serve(settings) as api:
        client = api.client("operator", "operator")
        task_id = client.post("/tasks", json={"kind": "platform.ping"}).json()["id"]
        with pytest.raises(httpx2.ReadTimeout):
            client.get(f"/tasks/{task_id}", params={"wait": 60}, timeout=0.3)
        client.close()
        begun = time.monotonic()

    assert time.monotonic() - begun < SOON_SECONDS, "the server waited for a request whose client had disconnected"


def test_a_server_that_stops_answers_waiting_requests(
    settings: Settings, serve: ServeApi, eventually: Eventually
) -> None:
    with ThreadPoolExecutor(1) as thread:
        with serve(settings) as api:
            client = httpx2.Client(base_url=api.url, headers=api.client("operator", "operator").headers, timeout=70)
            task_id = client.post("/tasks", json={"kind": "platform.ping"}).json()["id"]
            waiting = thread.submit(client.get, f"/tasks/{task_id}", params={"wait": 60})
            eventually(lambda: count_waiters() == 1)
            begun = time.monotonic()

        answer = waiting.result()
        client.close()

    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert time.monotonic() - begun < SOON_SECONDS


# Batches and workflows


class Together(NamedTuple):
    """A batch or a workflow: its path, and its tasks in the order in which a worker can run them."""

    path: str
    task_ids: list[str]


def submit_batch(client: httpx2.Client) -> Together:
    batch = client.post("/tasks/batch", json={"tasks": [{"kind": "platform.ping"}] * 2}).json()
    return Together(f"/batches/{batch['batch_id']}", [task["id"] for task in batch["tasks"]])


def submit_workflow(client: httpx2.Client) -> Together:
    names = ("first", "last")
    steps = [{"name": name, "kind": "platform.ping", "after": list(names[:place])} for place, name in enumerate(names)]
    workflow = client.post("/workflows", json={"steps": steps}).json()
    return Together(f"/workflows/{workflow['id']}", [step["task_id"] for step in workflow["steps"]])


@pytest.mark.parametrize("submit", [submit_batch, submit_workflow])
def test_a_wait_for_a_batch_or_workflow_ends_with_its_last_task(
    operator: httpx2.Client,
    manual_worker: ManualWorker,
    publish_wakeup: PublishWakeup,
    eventually: Eventually,
    errors_of: ErrorsOf,
    submit: Callable[[httpx2.Client], Together],
) -> None:
    together = submit(operator)

    def finish_both() -> None:
        eventually(lambda: count_waiters() > 0)
        for task_id in together.task_ids:
            manual_worker.succeed(task_id)
            publish_wakeup(task_id)

    short, _ = timed(lambda: operator.get(together.path, headers={"Prefer": "wait=1"}))
    with soon(finish_both, 0):
        waited, seconds = timed(lambda: operator.get(f"{together.path}?wait=60"))
    again, _ = timed(lambda: operator.get(f"{together.path}?wait=60"))

    assert (short.json()["finished_at"], short.headers["preference-applied"]) == (None, "wait=1")
    assert waited.json()["finished_at"] is not None
    assert seconds < SOON_SECONDS
    assert again.json() == waited.json()
    for wrong in ("wait=0", "wait=61", "wait=x", "wait="):
        assert list(errors_of(operator.get(f"{together.path}?{wrong}"))) == ["query:wait"]


def test_a_wait_for_a_workflow_ends_when_its_client_disconnects(
    operator: httpx2.Client, eventually: Eventually
) -> None:
    url, key = operator.base_url, operator.headers["Authorization"]
    path = submit_workflow(operator).path
    request = f"GET {path}?wait=60 HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: {key}\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(request.encode())
        eventually(lambda: count_waiters() == 1)
    eventually(lambda: count_waiters() == 0)
