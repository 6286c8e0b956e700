"""The schedule of `taskmill chaos` depends on its seed only, and a run reports each broken guarantee."""

from __future__ import annotations

import inspect
import json
import os
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace

import httpx2
import psycopg
import pytest
from psycopg.rows import namedtuple_row
from typer.testing import CliRunner

from cli.chaos.checks import (
    find_wrong_answers,
    find_wrong_follow_ups,
    find_wrong_mail,
    find_wrong_slots,
    find_wrong_streams,
    find_wrong_webhooks,
    find_wrong_workflows,
    measure_sweeps,
)
from cli.chaos.faults import CHILD_MODULE, FaultThrower, NothingHit
from cli.chaos.mail_server import MailServer
from cli.chaos.receiver import Event, WebhookReceiver
from cli.chaos.run import parse_faults, percentile
from cli.chaos.schedule import FAULTS, Fault, plan_faults
from cli.chaos.workflows import make_workflows
from cli.chaos.workload import Workload
from cli.local_stack.ready_file import PARTS
from cli.main import app
from shared.contracts.catalog import list_kinds
from shared.identifiers import new_id
from shared.queries.chaos import LIST_BEYOND_LIMITS
from shared.queries.hot_tasks import SUBMIT_KEYED
from shared.tasks.options import ConcurrencyLimit, TaskOptions
from shared.tasks.submission import make_task, submission_document
from shared.webhooks.signing import make_headers, new_secret
from tests.receiver import answer_with, hang_after, run_receiver
from workers.sandbox import limited_child


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    first, again, other = (plan_faults(seed, 300, list(FAULTS), 5) for seed in (7, 7, 8))

    assert first == again
    assert [fault.name for fault in first] != [fault.name for fault in other]


def test_the_order_of_the_given_faults_does_not_matter() -> None:
    assert plan_faults(1, 60, ["kill-api", "kill-beat"], 5) == plan_faults(1, 60, ["kill-beat", "kill-api"], 5)


def test_each_fault_comes_once_before_any_comes_again_and_none_after_the_end() -> None:
    schedule = plan_faults(3, 1000, list(FAULTS), 5)

    assert Counter(fault.name for fault in schedule[: len(FAULTS)]) == Counter(list(FAULTS))
    assert max(fault.at_seconds for fault in schedule) < 1000
    assert [fault.at_seconds for fault in schedule] == sorted(fault.at_seconds for fault in schedule)


def test_a_worker_is_stopped_for_longer_than_its_lease() -> None:
    gaps = plan_faults(3, 1000, ["stop-worker"], 30)

    assert all(after.at_seconds - before.at_seconds > 30 for before, after in pairwise(gaps))


def test_every_planned_fault_can_be_caused() -> None:
    mail = MailServer()
    thrower = FaultThrower(SimpleNamespace(ready={}), mail, 5)  # type: ignore[arg-type]

    assert thrower.known_faults == set(FAULTS)


def test_a_limited_child_is_recognised_by_a_module_that_exists() -> None:
    assert find_spec(CHILD_MODULE) is not None
    assert CHILD_MODULE in inspect.getsource(limited_child)


def test_an_unknown_fault_is_refused() -> None:
    assert parse_faults(" kill-api, kill-beat,") == ["kill-api", "kill-beat"]
    assert CliRunner().invoke(app, ["chaos", "--faults", "kill-everyone"]).exit_code == 2


@pytest.mark.parametrize(
    ("end", "accepted", "complaints"),
    [
        (("succeeded", None), 1, 0),
        (("succeeded", None), 0, 1),
        (("succeeded", None), 2, 2),
        (("failed", "/problems/delivery-unknown"), 0, 0),
        (("failed", "/problems/delivery-unknown"), 1, 0),
        (("failed", "/problems/delivery-unknown"), 2, 1),
        (("failed", "/problems/worker-lost"), 1, 1),
        (("failed", "/problems/worker-lost"), 0, 0),
    ],
)
def test_accepted_messages_are_compared_with_the_ends_of_tasks(
    end: tuple[str, str | None], accepted: int, complaints: int
) -> None:
    found = find_wrong_mail(Counter({"a": accepted}), {"task": "a"}, {"task": end})

    assert len(found) == complaints


def make_workload(pids: list[int | None], url: str) -> Workload:
    """Return a workload whose API has these pids, one at each question."""
    return Workload(url, "key", rate=1, seed=1, find_api_pid=iter(pids).__next__)


@pytest.mark.parametrize(("pids", "slow"), [([7, 7], 1), ([7, 8], 0), ([None], 0)])
def test_an_unanswered_health_check_counts_if_the_process_ran_all_the_time(
    pids: list[int | None], slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.chaos.workload.ANSWER_SECONDS", 0.1)
    monkeypatch.setattr("cli.chaos.workload.SLOW_SECONDS", 0.0)
    with run_receiver(hang_after(b"")) as api:
        workload = make_workload(pids, api.url)

        workload.check_health()

    assert workload.slow_health == slow


def test_what_clients_saw_is_checked() -> None:
    with run_receiver(answer_with(500)) as api:
        workload = make_workload([7], api.url)
        assert find_wrong_answers(workload) == []

        workload.check_health()
        workload.note_failure(lambda: {}["missing"])
        workload.given_up = 2

    assert find_wrong_answers(workload) == [
        "a client failed: KeyError('missing')",
        "2 clients repeated a request for 45 s without success",
        "/health answered 500 1 times",
    ]


def test_a_fault_without_a_process_to_hit_is_reported() -> None:
    pids = dict.fromkeys(PARTS)
    stack = SimpleNamespace(ready={"pids": pids})
    thrower = FaultThrower(stack, MailServer(), 5, wait_seconds=0.0)  # type: ignore[arg-type]

    for name in ("kill-relay", "stop-worker", "kill-broker"):
        with pytest.raises(NothingHit, match="did not run"):
            thrower.throw(Fault(1.0, name, "files"))


@pytest.mark.parametrize(("hit_at", "expected"), [(100.0, [8.0]), (40.0, []), (110.0, [])])
def test_a_sweep_is_measured_from_a_fault_within_the_attempt(hit_at: float, expected: list[float]) -> None:
    thrown = [(Fault(1.0, "kill-worker", "files"), hit_at)]
    swept = SimpleNamespace(queue="files", claimed_at=99.0, swept_at=108.0)

    assert measure_sweeps(thrown, [swept]) == expected


def test_slots_without_a_task_with_two_and_of_no_rule_are_reported() -> None:
    one, two, three, strange = (datetime(2030, 1, 1, 0, 0, second, tzinfo=UTC) for second in (0, 2, 4, 5))

    assert find_wrong_slots([one, two, three], {one: 1, two: 0, strange: 1}, tasks=4) == [
        f"the slot {two} has 0 tasks",
        f"the slot {three} has 0 tasks",
        f"the schedule has no slot {strange}, and it ran",
        "the schedule has 4 tasks and 3 slots",
    ]


def test_streams_that_lost_or_repeated_an_event_are_reported() -> None:
    received = {"whole": [1, 2, 3], "cut": [1, 2], "doubled": [1, 2, 2, 3]}
    histories = {task_id: [1, 2, 3] for task_id in received}

    assert find_wrong_streams(received, histories) == [
        "the stream of cut had the events [1, 2] of [1, 2, 3]",
        "the stream of doubled had the events [1, 2, 2, 3] of [1, 2, 3]",
    ]


def test_a_workflow_with_another_end_and_a_step_that_was_done_twice_are_reported() -> None:
    workflow = make_workflows("image")["fail"]
    rows = [
        SimpleNamespace(id="right", status="failed", ends={"late": ["failed"], "last": ["cancelled"]}),
        SimpleNamespace(id="other", status="cancelled", ends={"late": ["failed"], "last": ["cancelled"]}),
        SimpleNamespace(id="twice", status="failed", ends={"late": ["failed", "failed"], "last": ["cancelled"]}),
    ]
    workflows = dict.fromkeys(["right", "other", "twice", "missing"], workflow)

    assert [line.split()[2] for line in find_wrong_workflows(workflows, rows)] == ["other", "twice", "missing"]


def test_an_on_finished_that_is_missing_doubled_or_early_is_reported() -> None:
    batches = {"good": "tag-1", "none": "tag-2", "two": "tag-3", "early": "tag-4"}
    tags = [("tag-1", False), ("tag-3", False), ("tag-3", False), ("tag-4", True)]
    rows = [SimpleNamespace(tag=tag, status="succeeded", is_early=is_early) for tag, is_early in tags]

    assert find_wrong_follow_ups(batches, rows) == [
        "the on_finished of the batch none ended as []",
        "the on_finished of the batch two ended as ['succeeded', 'succeeded']",
        "the on_finished of the batch early came before its last task had ended",
    ]


def test_events_that_were_not_received_under_one_id_are_reported() -> None:
    workload = make_workload([7], "http://127.0.0.1:1")
    workload.workflows["w"] = make_workflows("image")["chain"]
    workload.batches["b"] = "tag"
    workload.reported.add("t")
    twice, unknown = Event("task.failed", "t"), Event("batch.finished", "unknown")
    received = {"1": Event("workflow.finished", "w"), "2": twice, "3": twice, "4": unknown}

    assert find_wrong_webhooks(workload, {"t": ("failed", None)}, received) == [
        "the event batch.finished of b was received under 0 ids",
        "the event batch.finished of unknown was received under 1 ids",
        "the event task.failed of t was received under 2 ids",
    ]


def test_the_receiver_accepts_a_signed_webhook_and_reports_a_wrong_signature() -> None:
    receiver = WebhookReceiver()
    receiver.secret = new_secret()
    receiver.start()
    body = json.dumps({"type": "task.failed", "data": {"id": "t"}}).encode()

    def send(secret: str) -> int | None:
        headers = make_headers("message", 5, body, [secret])
        with suppress(httpx2.TransportError):
            return httpx2.post(receiver.url, content=body, headers=headers).status_code
        return None

    answers = [send(receiver.secret) for _ in range(8)] + [send(new_secret())]
    receiver.stop()

    assert answers == [None, 204, 204, 204, 204, 204, 204, 503, 401]
    assert receiver.received == {"message": Event("task.failed", "t")}
    assert receiver.wrong == ["the webhook message has no valid signature"]


def test_attempts_beyond_the_limit_of_their_key_are_reported(database_url: str) -> None:
    organization_id, owner_id = new_id(), new_id()
    options = TaskOptions(concurrency=ConcurrencyLimit(key="one", limit=1))
    kind = list_kinds()["platform.ping"]
    before, during, after = (
        make_task("platform.ping", kind, b"{}", "files", options, organization_id, owner_id) for _ in range(3)
    )
    with psycopg.connect(database_url, autocommit=True, row_factory=namedtuple_row) as connection:
        connection.execute(SUBMIT_KEYED, {"document": submission_document([before, during, after])})
        for task, began, ended in ((before, 0, 10), (during, 5, 8), (after, 10, 12)):
            for seq, (status, at) in enumerate([("running", began), ("succeeded", ended)], start=10):
                connection.execute(
                    "INSERT INTO task_events (task_id, seq, at, type, data) "
                    "VALUES (%s, %s, to_timestamp(%s), 'status', jsonb_build_object('status', %s::text))",
                    (task.id, seq, at, status),
                )

        found = connection.execute(LIST_BEYOND_LIMITS).fetchall()

    assert found == [(str(during.id), "one", 1, 2)]


def test_percentiles_use_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]

    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([3.0], 0.99)) == (50, 99, 3)


@pytest.mark.skipif(bool(os.environ.get("CI")), reason="CI runs a longer one by the command")
def test_a_short_run_causes_its_faults_and_every_promise_holds(capfd: pytest.CaptureFixture[str]) -> None:
    # The lease decides how soon every task must be done; on a busy machine, the start of a server takes long.
    arguments = ["chaos", "--seed", "5", "--seconds", "9", "--rate", "6", "--lease", "12"]
    outcome = CliRunner().invoke(app, [*arguments, "--faults", "kill-worker,crash-postgres,kill-broker"])

    assert outcome.exit_code == 0, outcome.output
    assert "Every promise held." in outcome.output
    assert outcome.output.count("now at") >= 2
