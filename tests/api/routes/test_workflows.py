"""Workflows: steps that start when those before them have ended, and read what they gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.settings import Settings
from shared.verification import find_broken_rows
from tests.api.conftest import ErrorsOf, ManualWorker

PING = {"kind": "platform.ping"}


@pytest.fixture
def files(operator: httpx2.Client) -> list[str]:
    """A stored text file."""
    answer = operator.post("/files", files={"file": ("a.txt", b"hello", "text/plain")})
    return [answer.json()["params"]["file_id"]]


ONE_BY_ONE: list[dict[str, Any]] = [
    {"name": "first", **PING},
    {"name": "second", **PING, "params": {"echo": {"$from": "first.result.echo"}}},
    {"name": "third", **PING, "after": ["second"]},
]


PICTURE = Path(__file__).parents[2] / "data" / "rocket.jpg"


class Flow:
    """A workflow that was submitted, whose tasks a test claims and finishes by the names of their steps."""

    def __init__(
        self, client: httpx2.Client, manual_worker: ManualWorker, steps: list[dict[str, Any]], **fields: object
    ) -> None:
        self.client = client
        self.manual_worker = manual_worker
        answer = client.post("/workflows", json={"steps": steps, **fields})
        assert answer.status_code == 202, answer.text
        self.path = answer.headers["location"]

    def get(self) -> Any:
        answer = self.client.get(self.path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @property
    def statuses(self) -> list[str]:
        return [step["status"] for step in self.get()["steps"]]

    def step(self, name: str) -> Any:
        return next(step for step in self.get()["steps"] if step["name"] == name)

    def task(self, name: str) -> Any:
        return self.client.get(f"/tasks/{self.step(name)['task_id']}").json()

    def tasks(self, name: str) -> list[Any]:
        """Return the tasks of a step with `for_each`, in the order of the elements."""
        items = self.client.get(f"{self.get()['links']['tasks']}&limit=200").json()["items"]
        return sorted((task for task in items if task["workflow_step"] == name), key=lambda task: task["id"])

    def succeed(self, name: str, result: object = None) -> None:
        self._end(self.step(name)["task_id"], "succeeded", result={"echo": None} if result is None else result)

    def fail(self, name: str) -> None:
        self.manual_worker.fail(self.step(name)["task_id"])

    def _end(self, task_id: str, status: str, result: object) -> None:
        assert self.manual_worker.claim(task_id)
        assert self.manual_worker.end(task_id, status, result=result) == status


def test_each_step_starts_when_the_one_before_it_has_ended(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    flow = Flow(operator, manual_worker, ONE_BY_ONE, name="one by one")
    assert flow.statuses == ["queued", "scheduled", "scheduled"]
    assert operator.get(f"/tasks/{flow.step('second')['task_id']}/waiting").json()["reason"] == "upstream"
    assert flow.task("second")["params"]["echo"] == {"$from": "first.result.echo"}
    manual_worker.promote()
    assert not manual_worker.claim(flow.step("second")["task_id"])

    flow.succeed("first", {"echo": "hello"})
    assert flow.statuses == ["succeeded", "queued", "scheduled"]
    second = flow.task("second")
    assert (second["params"]["echo"], second["workflow_step"]) == ("hello", "second")
    assert second["workflow_id"] == flow.get()["id"]
    flow.succeed("second")
    flow.succeed("third")

    workflow = flow.get()
    assert (workflow["name"], workflow["status"], workflow["done"]) == ("one by one", "succeeded", True)
    assert workflow["step_counts"] == {"succeeded": 3}
    assert workflow["finished_at"] and all(step["finished_at"] for step in workflow["steps"])


def test_the_example_of_the_schema_is_a_valid_workflow(operator: httpx2.Client) -> None:
    upload = operator.post("/files", files={"file": ("rocket.jpg", PICTURE.read_bytes())}).json()
    route = operator.get("/openapi.json").json()["paths"]["/workflows"]["post"]
    (example,) = route["requestBody"]["content"]["application/json"]["examples"].values()
    example["value"]["steps"][0]["params"]["file_id"] = upload["params"]["file_id"]

    answer = operator.post("/workflows?validate_only=true", json=example["value"])

    assert (answer.status_code, answer.json()) == (200, {"valid": True})


def test_a_failed_step_ends_those_after_it_and_its_retry_goes_on_with_them(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    flow = Flow(operator, manual_worker, [*ONE_BY_ONE, {"name": "beside", **PING}])

    flow.fail("first")

    assert flow.statuses == ["failed", "cancelled", "cancelled", "queued"]
    error = flow.task("second")["error"]
    assert (error["type"], error["data"]) == ("/problems/upstream-failed", {"steps": ["first"]})
    assert flow.step("third")["error"]["data"] == {"steps": ["second"]}
    flow.succeed("beside")
    assert flow.get()["status"] == "failed"
    refused = operator.post(f"/tasks/{flow.step('second')['task_id']}/retry")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/task-not-retriable")
    assert "first" in refused.json()["detail"]

    assert operator.post(f"/tasks/{flow.step('first')['task_id']}/retry").status_code == 202

    assert flow.statuses == ["queued", "scheduled", "scheduled", "succeeded"]
    assert (flow.get()["status"], flow.get()["finished_at"], flow.task("second")["error"]) == ("running", None, None)
    flow.succeed("first", {"echo": "again"})
    assert flow.task("second")["params"]["echo"] == "again"
    flow.succeed("second")
    flow.succeed("third")
    assert flow.get()["status"] == "succeeded"


def test_a_step_that_says_so_lets_those_after_it_go_on_when_it_fails(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    steps = [
        {"name": "may-fail", **PING, "on_failure": "continue"},
        {"name": "tell", **PING, "params": {"echo": {"$from": "may-fail.status"}}},
        {"name": "needs", **PING, "params": {"echo": {"$from": "may-fail.result.echo"}}, "on_failure": "continue"},
    ]
    flow = Flow(operator, manual_worker, steps)

    flow.fail("may-fail")

    assert flow.statuses == ["failed", "queued", "failed"]
    assert flow.task("tell")["params"]["echo"] == "failed"
    error = flow.task("needs")["error"]
    assert (error["type"], error["attempt"]) == ("/problems/unresolved-reference", 0)
    assert error["detail"] == "The param /echo refers to may-fail.result.echo, which does not exist."
    flow.succeed("tell")
    assert flow.get()["status"] == "succeeded"


def test_a_step_for_each_element_has_a_task_for_each_and_a_later_step_sees_all(
    operator: httpx2.Client, manual_worker: ManualWorker, files: list[str]
) -> None:
    steps = [
        {"name": "make", "kind": "files.inspect", "params": {"file_id": files[0]}},
        {
            "name": "each",
            "kind": "files.inspect",
            "for_each": {"$from": "make.artifacts"},
            "params": {"file_id": {"$from": "item.id"}},
        },
        {
            "name": "send",
            "kind": "email.send",
            "params": {
                "to": ["ada@example.com"],
                "subject": {"$from": "each.status"},
                "text": "x",
                "attachments": [{"file_id": {"$from": "make.artifacts.1.id"}}, {"file_id": files[0]}],
            },
            "after": ["each"],
        },
    ]
    flow = Flow(operator, manual_worker, steps)
    assert (flow.step("each")["status"], flow.step("each")["tasks"]) == ("scheduled", None)

    manual_worker.finish_with_artifacts(flow.step("make")["task_id"], ["a.txt", "b.txt"])

    artifacts = [artifact["id"] for artifact in flow.task("make")["artifacts"]]
    tasks = flow.tasks("each")
    assert [task["params"]["file_id"] for task in tasks] == artifacts
    assert flow.step("each")["tasks"] == {"total": 2, "counts": {"queued": 2}}
    assert operator.delete(f"/files/{artifacts[0]}").json()["type"] == "/problems/file-in-use"
    manual_worker.succeed(tasks[0]["id"])
    manual_worker.fail(tasks[1]["id"])
    assert (flow.step("each")["status"], flow.step("send")["status"]) == ("failed", "cancelled")

    operator.post(f"/tasks/{tasks[1]['id']}/retry")
    manual_worker.succeed(tasks[1]["id"])

    assert flow.step("each")["status"] == "succeeded"
    send = flow.task("send")
    assert (send["status"], send["params"]["subject"]) == ("queued", "succeeded")
    assert [one["file_id"] for one in send["params"]["attachments"]] == [artifacts[1], files[0]]


def test_a_list_without_elements_is_a_step_without_tasks(
    operator: httpx2.Client, manual_worker: ManualWorker, files: list[str]
) -> None:
    steps = [
        {"name": "make", "kind": "files.inspect", "params": {"file_id": files[0]}},
        {"name": "each", **PING, "for_each": {"$from": "make.artifacts"}, "params": {"echo": {"$from": "item.name"}}},
        {"name": "last", **PING, "after": ["each"]},
    ]
    flow = Flow(operator, manual_worker, steps)

    flow.succeed("make", {})

    assert flow.step("each")["tasks"] == {"total": 0, "counts": {}}
    assert flow.statuses == ["succeeded", "succeeded", "queued"]


def test_a_step_whose_tasks_would_be_too_large_fails_and_the_one_before_it_ends(
    operator: httpx2.Client, manual_worker: ManualWorker, files: list[str]
) -> None:
    message = {"to": ["ada@example.com"], "subject": {"$from": "item.name"}, "text": "x" * 900_000}
    steps = [
        {"name": "make", "kind": "files.inspect", "params": {"file_id": files[0]}},
        {"name": "each", "kind": "email.send", "for_each": {"$from": "make.artifacts"}, "params": message},
    ]
    flow = Flow(operator, manual_worker, steps)

    manual_worker.finish_with_artifacts(flow.step("make")["task_id"], [f"{n}.txt" for n in range(20)])

    assert flow.statuses == ["succeeded", "failed"]
    assert "larger than 16 MiB together" in flow.step("each")["error"]["detail"]
    assert flow.get()["status"] == "failed"


def test_a_step_for_each_element_reads_other_steps_too(
    operator: httpx2.Client, manual_worker: ManualWorker, files: list[str]
) -> None:
    message = {"to": ["ada@example.com"], "subject": {"$from": "item.name"}, "text": {"$from": "make.status"}}
    steps = [
        {"name": "make", "kind": "files.inspect", "params": {"file_id": files[0]}},
        {"name": "each", "kind": "email.send", "for_each": {"$from": "make.artifacts"}, "params": message},
    ]
    flow = Flow(operator, manual_worker, steps)

    manual_worker.finish_with_artifacts(flow.step("make")["task_id"], ["a.txt", "b.txt"])

    params = [task["params"] for task in flow.tasks("each")]
    assert [(one["subject"], one["text"]) for one in params] == [("a.txt", "succeeded"), ("b.txt", "succeeded")]


def test_a_workflow_has_at_most_ten_thousand_tasks(
    operator: httpx2.Client, manual_worker: ManualWorker, files: list[str]
) -> None:
    steps = [
        {"name": "make", "kind": "files.inspect", "params": {"file_id": files[0]}},
        {"name": "each", **PING, "for_each": {"$from": "make.artifacts"}, "after": ["other"]},
        {"name": "other", **PING},
    ]
    flow = Flow(operator, manual_worker, steps)
    manual_worker.finish_with_artifacts(flow.step("make")["task_id"], ["a.txt", "b.txt"])
    names = {"id": flow.get()["id"]}
    start_step = (
        "SELECT taskmill_start_step(step) FROM workflow_steps step WHERE workflow_id = %(id)s AND name = 'each'"
    )
    error = "SELECT error->>'detail' FROM workflow_steps WHERE workflow_id = %(id)s AND name = 'each'"

    with manual_worker.connection.transaction(force_rollback=True):
        manual_worker.connection.execute(
            "INSERT INTO tasks SELECT (jsonb_populate_record(task, jsonb_build_object('id', gen_random_uuid()))).* "
            "FROM tasks AS task, generate_series(1, 9997) WHERE workflow_id = %(id)s AND workflow_step = 'other'",
            names,
        )
        assert manual_worker.connection.execute(start_step, names).fetchone() == ("failed",)
        found = manual_worker.connection.execute(error, names).fetchone()

    assert found is not None
    assert "more than 10,000 tasks" in found[0]


def test_cancelling_a_workflow_cancels_what_is_left(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    flow = Flow(operator, manual_worker, [*ONE_BY_ONE, {"name": "running", **PING}])
    flow.succeed("first")
    running = flow.step("running")["task_id"]
    manual_worker.claim(running)

    answer = operator.post(f"{flow.path}/cancel")

    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert flow.statuses == ["succeeded", "cancelled", "cancelled", "running"]
    assert flow.task("third")["error"]["type"] == "/problems/cancelled"
    assert manual_worker.renew(running)
    assert manual_worker.end(running, "succeeded", result={"echo": None}) == "succeeded"
    assert flow.get()["status"] == "cancelled"
    assert operator.post(f"{flow.path}/cancel").json()["type"] == "/problems/workflow-done"

    operator.post(f"/tasks/{flow.step('second')['task_id']}/retry")
    assert flow.statuses == ["succeeded", "queued", "scheduled", "succeeded"]


def test_a_workflow_is_deleted_with_its_tasks_once_it_is_done(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    flow = Flow(operator, manual_worker, ONE_BY_ONE)
    first = flow.step("first")["task_id"]
    flow.succeed("first")
    assert operator.delete(flow.path).json()["type"] == "/problems/workflow-not-done"
    kept = operator.delete(f"/tasks/{first}")
    assert (kept.status_code, kept.json()["type"]) == (409, "/problems/workflow-not-done")
    operator.post(f"{flow.path}/cancel")

    assert operator.delete(flow.path).status_code == 204

    assert operator.get(flow.path).status_code == 410
    assert operator.get(f"/tasks/{first}").status_code == 410


def test_a_workflow_is_seen_by_its_organization_alone(
    operator: httpx2.Client, client: httpx2.Client, stranger: httpx2.Client, manual_worker: ManualWorker
) -> None:
    message = {"to": ["ada@example.com"], "subject": "s", "text": "t"}
    flow = Flow(client, manual_worker, [{"name": "send", "kind": "email.send", "params": message}])

    for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
        foreign = stranger.request(method, flow.path + path)
        absent = stranger.request(method, f"/workflows/{new_id()}{path}")
        assert (foreign.status_code, absent.status_code) == (404, 404)
    assert flow.path not in [item["links"]["self"] for item in stranger.get("/workflows").json()["items"]]
    assert flow.path in [item["links"]["self"] for item in client.get("/workflows?status=running").json()["items"]]
    assert operator.get(flow.path).status_code == 200
    assert client.post("/workflows", json={"steps": ONE_BY_ONE}).status_code == 403


def test_a_workflow_is_stored_once_for_an_idempotency_key(operator: httpx2.Client) -> None:
    headers = {"Idempotency-Key": f"key-{new_id()}"}

    answers = [operator.post("/workflows", json={"steps": ONE_BY_ONE}, headers=headers) for _ in range(2)]
    other = operator.post("/workflows", json={"steps": ONE_BY_ONE[:1]}, headers=headers)

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert other.json()["type"] == "/problems/idempotency-key-reused"


def test_with_validate_only_a_workflow_is_checked_and_not_stored(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    before = manual_worker.count("SELECT count(*) FROM workflows")

    answer = operator.post("/workflows?validate_only=true", json={"steps": ONE_BY_ONE})

    assert (answer.status_code, answer.json()) == (200, {"valid": True})
    assert manual_worker.count("SELECT count(*) FROM workflows") == before


def _step(name: str, **fields: object) -> dict[str, Any]:
    return {"name": name, **PING, **fields}


FILE = "0199c0de-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("steps", "pointer", "code"),
    [
        ([], "/steps", "length"),
        ([_step("a")] * 101, "/steps", "length"),
        ([_step("a"), _step("a")], "/steps/1/name", "duplicate_name"),
        ([_step("item")], "/steps/0/name", "reserved_name"),
        ([_step("a b")], "/steps/0/name", "string_pattern_mismatch"),
        ([PING], "/steps/0/name", "missing"),
        ([_step("a", after=["b"])], "/steps/0/after/0", "unknown_step"),
        ([_step("a", after=["a"])], "/steps/0/after/0", "cycle"),
        ([_step("a", after=["b"]), _step("b", params={"echo": {"$from": "a.result.echo"}})], "/steps/0/after", "cycle"),
        ([_step("a", nope=1)], "/steps/0/nope", "extra_forbidden"),
        ([_step("a", unique_for=1)], "/steps/0/unique_for", "not_in_a_workflow"),
        ([_step("a", on_failure="stop")], "/steps/0/on_failure", "literal_error"),
        ([{"name": "a", "kind": "no.such"}], "/steps/0/kind", "unknown_kind"),
        ([_step("a"), _step("b", params={"echo": {"$from": "x.result.echo"}})], "/steps/1/params/echo", "unknown_step"),
        ([_step("a"), _step("b", params={"echo": {"$from": 5}})], "/steps/1/params/echo", "reference"),
        (
            [_step("a"), _step("b", params={"echo": {"$from": "a.result.pages"}})],
            "/steps/1/params/echo",
            "unknown_reference",
        ),
        ([_step("a"), _step("b", params={"echo": {"$from": "a"}})], "/steps/1/params/echo", "unknown_reference"),
        (
            [_step("a"), _step("b", params={"echo": {"$from": "a.artifacts.0.id"}})],
            "/steps/1/params/echo",
            "unknown_reference",
        ),
        (
            [_step("a"), _step("b", params={"sleep_ms": {"$from": "a.result.echo"}})],
            "/steps/1/params/sleep_ms",
            "reference_type",
        ),
        ([_step("a"), _step("b", params={"pages": {"$from": "a.status"}})], "/steps/1/params/pages", "extra_forbidden"),
        (
            [_step("a"), _step("b", params={"echo": {"$from": "a.status"}, "sleep_ms": -1})],
            "/steps/1/params/sleep_ms",
            "greater_than_equal",
        ),
        (
            [_step("a"), {"name": "b", "kind": "email.send", "params": {"to": [{"$from": "a.status"}] * 101}}],
            "/steps/1/params",
            "too_many_references",
        ),
        ([_step("a"), _step("b", params={"echo": {"$from": "item.id"}})], "/steps/1/params/echo", "no_item"),
        ([_step("a"), _step("b", for_each={"$from": "a.result.echo"})], "/steps/1/for_each", "reference_type"),
        ([_step("a"), _step("b", for_each=["x"])], "/steps/1/for_each", "dict_type"),
        ([_step("a"), _step("b", for_each={})], "/steps/1/for_each", "reference"),
        (
            [{"name": "a", "kind": "files.inspect", "params": {"file_id": FILE}}],
            "/steps/0/params/file_id",
            "unknown_file",
        ),
    ],
)
def test_an_invalid_workflow_is_refused_at_the_pointer(
    operator: httpx2.Client, errors_of: ErrorsOf, steps: list[Any], pointer: str, code: str
) -> None:
    found = errors_of(operator.post("/workflows", json={"steps": steps}))

    assert found.get(pointer) == code, found


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_options_of_a_step_are_those_of_any_submission(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    notify = {"email": ["ada@example.com"], "on": ["succeeded"]}
    steps = [_step("a"), _step("b", after=["a"], notify=notify, priority=8, tags=["late"], delay=3600)]
    flow = Flow(operator, manual_worker, steps)
    task = flow.task("b")
    assert (task["priority"], task["tags"], task["run_at"]) == (8, ["late"], None)

    flow.succeed("a")

    assert flow.task("b")["status"] == "scheduled"
    assert flow.task("b")["run_at"] is not None
    manual_worker.connection.execute("UPDATE tasks SET run_at = now() WHERE id = %s", (task["id"],))
    manual_worker.promote()
    flow.succeed("b")
    (notice,) = operator.get(f"/tasks?parent_id={task['id']}").json()["items"]
    assert (notice["kind"], notice["params"]["to"]) == ("email.send", ["ada@example.com"])


def test_a_schedule_submits_a_workflow(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    definition = {"name": "nightly", "steps": [_step("a"), _step("b", after=["a"])]}
    answer = operator.post("/schedules", json={"name": "flow", "every": 3600, "workflow": definition})
    assert answer.status_code == 201, answer.text
    schedule = answer.json()
    assert (schedule["kind"], schedule["workflow"]) == (None, definition)
    path = schedule["links"]["self"]

    workflow = operator.post(f"{path}/run")

    assert workflow.headers["location"] == workflow.json()["links"]["self"]
    assert (workflow.json()["name"], workflow.json()["schedule_id"]) == ("nightly", schedule["id"])
    (run,) = operator.get(path).json()["last_runs"]
    assert (run["workflow_id"], run["status"]) == (workflow.json()["id"], "running")
    headers = {"If-Match": answer.headers["etag"]}
    changed = operator.patch(path, json={"workflow": {"steps": [_step("c")]}}, headers=headers)
    assert changed.json()["workflow"]["steps"][0]["name"] == "c"
    headers = {"If-Match": changed.headers["etag"]}
    assert operator.patch(path, json=PING, headers=headers).json()["workflow"] is None


def test_a_schedule_has_a_workflow_or_a_task(operator: httpx2.Client, errors_of: ErrorsOf) -> None:
    rule = {"name": "x", "every": 60}
    bodies: list[dict[str, Any]] = [
        {**rule, **PING, "workflow": {"steps": [_step("a")]}},
        {**rule, "workflow": {"steps": [_step("a")]}, "ttl": 5},
        {**rule, "workflow": {"steps": [_step("a", after=["b"])]}},
        {**rule, "workflow": []},
        {**rule, "workflow": {"steps": [_step("a", webhook={"url": "https://localhost/x", "secret": SECRET})]}},
    ]

    found = [set(errors_of(operator.post("/schedules", json=body))) for body in bodies]

    assert found == [
        {"/kind"},
        {"/ttl"},
        {"/workflow/steps/0/after/0"},
        {"/workflow"},
        {"/workflow/steps/0/webhook/secret"},
    ]


def test_the_rows_of_workflows_of_every_fate_keep_every_promise(
    operator: httpx2.Client, manual_worker: ManualWorker, module_settings: Settings
) -> None:
    failed = Flow(operator, manual_worker, ONE_BY_ONE)
    failed.fail("first")
    operator.post(f"/tasks/{failed.step('first')['task_id']}/retry")
    delayed = Flow(operator, manual_worker, [_step("a"), _step("b", after=["a"], delay=3600)])
    delayed.succeed("a")
    cancelled = Flow(operator, manual_worker, ONE_BY_ONE)
    operator.post(f"{cancelled.path}/cancel")
    engine = make_engine(module_settings, "test")

    with engine.connect() as connection:
        findings = list(find_broken_rows(connection, None, lease_seconds=60))

    engine.dispose()
    assert findings == []


def test_the_task_of_a_step_has_its_limits_of_keys(operator: httpx2.Client) -> None:
    limits = {"concurrency": {"key": "k", "limit": 2}, "rate": {"key": "k", "limit": 3, "period_seconds": 60}}
    step = {"name": "only", "kind": "platform.ping", "params": {}, **limits}

    workflow = operator.post("/workflows", json={"steps": [step]}).json()

    (task,) = operator.get("/tasks", params={"workflow_id": workflow["id"]}).json()["items"]
    assert {name: task[name] for name in limits} == limits
