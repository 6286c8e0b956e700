"""`/openapi.json` has the routes and statuses of the contract, and the application conforms to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import BaseSchema, GenerationMode
from schemathesis.specs.openapi import definitions
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.openapi.document import OPEN_AUTH_PATHS
from shared.identifiers import new_id
from shared.permissions import SCOPES
from shared.queries.signs_of_life import SHOW_SIGN_OF_LIFE
from shared.settings import Settings
from tests.api.conftest import ManualWorker
from tests.conftest import Api
from tests.people import insert_person, make_member_key

ANY = {400, 413, 500}
"""The error statuses that every route may answer with."""
READING = ANY | {401, 403, 422, 429, 503}
OPEN = ANY | {415, 422, 429, 503}
"""Those of routes of `/auth` that need no credentials."""
SUBMITTING = READING | {200, 202, 409, 410, 415}

STATUSES: dict[tuple[str, str], set[int]] = {
    ("post", "/tasks"): SUBMITTING,
    ("get", "/tasks"): READING | {200, 406},
    ("get", "/tasks/failures"): READING | {200, 406},
    ("post", "/tasks/bulk"): SUBMITTING,
    ("post", "/tasks/{task_id}/rerun"): SUBMITTING | {404},
    ("get", "/tasks/{task_id}"): READING | {200, 304, 404, 410},
    ("delete", "/tasks/{task_id}"): READING | {204, 404, 409, 410},
    ("get", "/tasks/{task_id}/events"): READING | {200, 204, 404, 410},
    ("post", "/tasks/{task_id}/stream-token"): READING | {200, 404, 410, 415},
    ("get", "/tasks/{task_id}/log"): READING | {200, 404, 410},
    ("get", "/events"): READING | {200},
    ("get", "/batches/{batch_id}/events"): READING | {200, 204, 404},
    ("get", "/tasks/{task_id}/waiting"): READING | {200, 404, 410},
    ("post", "/tasks/{task_id}/cancel"): READING | {202, 404, 409, 410, 415},
    ("post", "/tasks/{task_id}/retry"): READING | {202, 404, 409, 410, 415},
    ("post", "/tasks/batch"): SUBMITTING,
    ("get", "/batches/{batch_id}"): READING | {200, 404},
    ("post", "/batches/{batch_id}/cancel"): READING | {202, 404, 415},
    ("post", "/workflows"): SUBMITTING,
    ("get", "/workflows"): READING | {200, 406},
    ("get", "/workflows/{workflow_id}"): READING | {200, 404, 410},
    ("delete", "/workflows/{workflow_id}"): READING | {204, 404, 409, 410},
    ("post", "/workflows/{workflow_id}/cancel"): READING | {202, 404, 409, 410, 415},
    ("post", "/reports"): SUBMITTING,
    ("post", "/emails"): SUBMITTING,
    ("post", "/files"): SUBMITTING | {507},
    ("get", "/files"): READING | {200, 406},
    ("get", "/files/{file_id}"): READING | {200, 404, 410},
    ("delete", "/files/{file_id}"): READING | {204, 404, 409, 410},
    ("get", "/files/{file_id}/content"): READING | {200, 206, 304, 404, 410, 416},
    ("post", "/schedules"): READING | {201, 409, 415},
    ("get", "/schedules"): READING | {200, 406},
    ("post", "/schedules/preview"): READING | {200, 415},
    ("get", "/schedules/{schedule_id}"): READING | {200, 404},
    ("patch", "/schedules/{schedule_id}"): READING | {200, 404, 409, 412, 415, 428},
    ("delete", "/schedules/{schedule_id}"): READING | {204, 404},
    ("post", "/schedules/{schedule_id}/run"): (SUBMITTING - {200}) | {404},
    ("post", "/webhook-endpoints"): READING | {201, 409, 415},
    ("get", "/webhook-endpoints"): READING | {200, 406},
    ("get", "/webhook-endpoints/{endpoint_id}"): READING | {200, 404},
    ("patch", "/webhook-endpoints/{endpoint_id}"): READING | {200, 404, 412, 415, 428},
    ("delete", "/webhook-endpoints/{endpoint_id}"): READING | {204, 404},
    ("post", "/webhook-endpoints/{endpoint_id}/rotate"): READING | {200, 404, 415},
    ("post", "/webhook-endpoints/{endpoint_id}/test"): READING | {200, 202, 404, 409, 415},
    ("get", "/webhook-deliveries"): READING | {200, 406},
    ("get", "/webhook-deliveries/{delivery_id}"): READING | {200, 404},
    ("post", "/webhook-deliveries/{delivery_id}/redeliver"): READING | {202, 404, 409, 410, 415},
    ("get", "/webhook-secret"): READING | {200},
    ("post", "/webhook-secret/rotate"): READING | {200, 415},
    ("post", "/api-keys"): READING | {201, 404, 409, 415},
    ("get", "/api-keys"): READING | {200, 406},
    ("get", "/api-keys/{key_id}"): READING | {200, 404},
    ("delete", "/api-keys/{key_id}"): READING | {204, 404},
    ("post", "/api-keys/{key_id}/rotate"): READING | {201, 404, 409, 415},
    ("post", "/organizations"): READING | {201, 409, 415},
    ("get", "/organizations"): READING | {200, 406},
    ("get", "/organizations/{organization_id}"): READING | {200, 404},
    ("patch", "/organizations/{organization_id}"): READING | {200, 404, 409, 415},
    ("get", "/organizations/{organization_id}/members"): READING | {200, 404, 406},
    ("post", "/organizations/{organization_id}/members"): READING | {201, 404, 409, 415},
    ("get", "/organizations/{organization_id}/members/{person_id}"): READING | {200, 404},
    ("patch", "/organizations/{organization_id}/members/{person_id}"): READING | {200, 404, 409, 415},
    ("delete", "/organizations/{organization_id}/members/{person_id}"): READING | {204, 404, 409},
    ("get", "/usage"): READING | {200},
    ("get", "/organizations/{organization_id}/limits"): READING | {200, 404},
    ("put", "/organizations/{organization_id}/limits"): READING | {200, 404, 415},
    ("get", "/organizations/{organization_id}/callers/{caller_id}/limits"): READING | {200, 404},
    ("put", "/organizations/{organization_id}/callers/{caller_id}/limits"): READING | {200, 404, 415},
    ("get", "/kinds"): READING | {200},
    ("post", "/kinds/{kind}/pause"): READING | {200, 404, 409, 415},
    ("post", "/kinds/{kind}/resume"): READING | {200, 404, 415},
    ("get", "/queues"): READING | {200, 406},
    ("get", "/queues/{queue}"): READING | {200, 404},
    ("post", "/queues/{queue}/pause"): READING | {200, 404, 415},
    ("post", "/queues/{queue}/resume"): READING | {200, 404, 415},
    ("get", "/workers"): READING | {200, 406},
    ("get", "/audit"): READING | {200, 406},
    ("get", "/auth/oidc/login"): (OPEN - {415}) | {303, 404},
    ("get", "/auth/oidc/callback"): (OPEN - {415}) | {200, 303, 401, 403, 404, 409},
    ("post", "/auth/register"): OPEN | {201, 202, 403, 409},
    ("post", "/auth/token"): OPEN | {200, 202, 401, 403},
    ("post", "/auth/challenge"): OPEN | {200, 401, 403},
    ("post", "/auth/refresh"): OPEN | {200, 401, 403},
    ("post", "/auth/logout"): OPEN | {204, 401, 403},
    ("post", "/auth/logout-everywhere"): READING | {204, 415},
    ("post", "/auth/change-password"): READING | {204, 415},
    ("post", "/auth/forgot-password"): OPEN | {202},
    ("post", "/auth/reset-password"): OPEN | {204},
    ("post", "/auth/verify-email"): OPEN | {204},
    ("post", "/auth/resend-verification"): OPEN | {202},
    ("post", "/auth/totp"): READING | {200, 409, 415},
    ("post", "/auth/totp/confirm"): READING | {200, 409, 415},
    ("post", "/auth/totp/disable"): READING | {204, 409, 415},
    ("get", "/users/me"): READING | {200, 404},
    ("patch", "/users/me"): READING | {200, 404, 415},
    ("delete", "/users/me"): READING | {204, 404, 409},
    ("get", "/users/me/sessions"): READING | {200, 406},
    ("delete", "/users/me/sessions/{session_id}"): READING | {204, 404},
    ("get", "/users"): READING | {200, 406},
    ("get", "/users/{person_id}"): READING | {200, 404},
    ("patch", "/users/{person_id}"): READING | {200, 404, 409, 415},
    ("post", "/users/{person_id}/force-password"): READING | {202, 404, 415},
    ("post", "/invitations"): READING | {201, 409, 415},
    ("get", "/invitations"): READING | {200, 406},
    ("delete", "/invitations/{invitation_id}"): READING | {204, 404},
    ("post", "/invitations/accept"): READING | {200, 404, 415},
    ("get", "/admin/overview"): READING | {200},
    ("get", "/.well-known/jwks.json"): ANY | {200, 422, 503},
    ("get", "/problems/{name}"): ANY | {200, 404, 422},
    ("get", "/health"): ANY | {200, 422},
    ("get", "/health/ready"): ANY | {200, 422, 503},
}
"""Every route of the contract, with every status that it may answer with."""

ENDLESS = {("get", "/events"), ("get", "/batches/{batch_id}/events")}
"""Streams that last as long as their client wishes. `tests/api/streaming` reads them; here their requests are refused."""

ONE_CANARY = """
WITH schedule AS (
    INSERT INTO schedules (id, name, kind, params, every_seconds)
    VALUES (gen_random_uuid(), 'canary', 'platform.canary', '{"queue": "files"}', 60) RETURNING id)
INSERT INTO schedule_slots (schedule_id, slot, task_id) SELECT id, now(), gen_random_uuid() FROM schedule"""
"""A canary as beat submits it, so that readiness shows a queue."""

EXAMPLES = int(os.environ.get("TEST_SCHEMA_EXAMPLES", "6"))
"""How many valid and how many invalid requests each route receives. They are the same each time, and generating one takes about
40 ms of processor time.
"""


@pytest.fixture(scope="module")
def document(nobody: httpx2.Client) -> dict[str, Any]:
    answer = nobody.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations_of(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): found for path, item in document["paths"].items() for method, found in item.items()}


def test_the_schema_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    jsonschema_rs.Draft202012Validator(definitions.OPENAPI_31).validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})


def test_the_schema_has_the_routes_of_the_contract_with_their_statuses(document: dict[str, Any]) -> None:
    found = {key: {int(status) for status in item["responses"]} for key, item in operations_of(document).items()}

    assert found == STATUSES


def test_every_reference_in_the_schema_resolves(document: dict[str, Any]) -> None:
    def walk(value: object) -> None:
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str):
                target: Any = document
                for step in reference.removeprefix("#/").split("/"):
                    target = target[step]
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(document)


def test_every_error_is_a_problem_and_every_other_answer_has_a_real_schema(document: dict[str, Any]) -> None:
    for (method, path), operation in operations_of(document).items():
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            if int(status) >= 400 and (path, status) != ("/health/ready", "503"):
                assert list(content) == ["application/problem+json"], (method, path, status)
            elif int(status) in {204, 303, 304}:
                assert content == {}, (method, path, status)
            else:
                schema = next(iter(content.values()))["schema"]
                assert schema != {"type": "object"}, (method, path, status)
            assert response["headers"]["X-Request-ID"]["required"]


def test_only_open_routes_need_no_credentials(document: dict[str, Any]) -> None:
    open_paths = {path for (_, path), operation in operations_of(document).items() if "security" not in operation}

    assert open_paths == {"/problems/{name}", "/health", "/health/ready", "/.well-known/jwks.json", *OPEN_AUTH_PATHS}
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {"bearer", "apiKey", "password"}
    assert schemes["password"]["flows"]["password"] == {
        "tokenUrl": "/auth/token",
        "refreshUrl": "/auth/refresh",
        "scopes": SCOPES,
    }


def test_operations_are_named_by_a_verb_and_one_or_two_nouns(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations_of(document).values()]

    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+){1,2}", name)] == []


def test_every_operation_is_described_in_sentences(document: dict[str, Any]) -> None:
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    for key, operation in operations_of(document).items():
        assert tags[operation["tags"][0]].endswith("."), key
        assert operation["description"].endswith("."), key
        assert not operation["summary"].endswith("."), key
        for status, response in operation["responses"].items():
            assert response["description"].endswith((".", ")")) and len(response["description"]) > 8, (key, status)


BODIES = [
    "/tasks",
    "/tasks/batch",
    "/tasks/bulk",
    "/emails",
    "/reports",
    "/workflows",
    "/schedules",
    "/webhook-endpoints",
    "/api-keys",
    "/organizations",
    "/organizations/{organization_id}/members",
]


@pytest.mark.parametrize("path", BODIES)
def test_every_body_has_examples_that_fit_its_schema(document: dict[str, Any], path: str) -> None:
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    schema = {**body["schema"], "components": document["components"]}
    examples = {name: example["value"] for name, example in body["examples"].items()}

    assert examples
    for name, example in examples.items():
        assert jsonschema_rs.is_valid(schema, example), name
        if path in {"/tasks", "/tasks/batch", "/workflows", "/schedules"}:
            assert all("kind" in task for task in example.get("tasks", example.get("steps", [example])))
    if path == "/tasks":
        assert set(examples) == set(document["components"]["schemas"]["Submission"]["discriminator"]["mapping"])


def test_no_field_of_a_body_declares_a_default(document: dict[str, Any]) -> None:
    # Generated clients would send it, some of them as a text, or require the field.
    schemas = document["components"]["schemas"]
    ends = ("Submission", "Request", "Params", "Schedule", "Change", "Rule")
    bodies = [name for name in schemas if name.endswith(ends)]

    assert len(bodies) > 10
    assert [
        (name, field) for name in bodies for field, of in schemas[name].get("properties", {}).items() if "default" in of
    ] == []


def test_every_public_kind_may_be_submitted_by_the_schema(document: dict[str, Any], operator: httpx2.Client) -> None:
    kinds = {kind["kind"] for kind in operator.get("/kinds").json()["items"]}

    assert set(document["components"]["schemas"]["Submission"]["discriminator"]["mapping"]) == kinds


# The application conforms to the schema


@pytest.fixture(scope="module")
def schema(served: Api, document: dict[str, Any], manual_worker: ManualWorker) -> Any:
    for part in ("relay", "sweeper", "beat"):
        manual_worker.connection.execute(SHOW_SIGN_OF_LIFE, {"part": part})
    # They must not become stale while these tests run.
    manual_worker.connection.execute("UPDATE signs_of_life SET at = now() + interval '1 hour'")
    manual_worker.connection.execute(ONE_CANARY)
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.update(base_url=served.url)
    return loaded


@pytest.fixture(scope="module")
def subjects(
    served: Api,
    module_settings: Settings,
    client: httpx2.Client,
    operator: httpx2.Client,
    admin: httpx2.Client,
    manual_worker: ManualWorker,
    data: Path,
) -> dict[str, Iterator[str]]:
    """The ids of existing tasks, batches and files in every state, by the name of the path parameter."""
    batch = operator.post("/tasks/batch", json={"tasks": [{"kind": "platform.ping"}] * 12}).json()
    tasks = [task["id"] for task in batch["tasks"]]
    for n, act in enumerate(
        [
            manual_worker.claim,
            manual_worker.succeed,
            manual_worker.fail,
            lambda task: operator.post(f"/tasks/{task}/cancel"),
        ]
    ):
        for task in tasks[n::5]:
            act(task)
    manual_worker.report(tasks[0], 40, "2 of 5")
    with (data / "coffee.png").open("rb") as file:
        uploads = [client.post("/files", files={"file": ("coffee.png", file)}).json() for _ in range(3)]
    batches = [
        operator.post("/tasks/batch", json={"tasks": [{"kind": "platform.ping", "delay": 60}]}).json()["batch_id"]
        for _ in range(3)
    ]
    message = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "hello"}}
    schedules = [
        client.post("/schedules", json={"name": name, "every": 3600, **message}).json()["id"] for name in "abc"
    ]
    steps = [{"name": "a", "kind": "platform.ping"}, {"name": "b", "kind": "platform.ping", "after": ["a"]}]
    workflows = [operator.post("/workflows", json={"steps": steps}).json()["id"] for _ in range(4)]
    operator.post(f"/workflows/{workflows[0]}/cancel")
    hook = {"url": "http://127.0.0.1:9/", "event_types": ["task.failed"]}
    endpoints = [client.post("/webhook-endpoints", json=hook).json()["id"] for _ in range(3)]
    manual_worker.fail(client.post("/tasks", json=message).json()["id"])
    deliveries = [item["id"] for item in client.get("/webhook-deliveries").json()["items"]]
    manual_worker.connection.execute(
        "UPDATE webhook_deliveries SET state = 'failed', finished_at = now() WHERE id = %s", [deliveries[0]]
    )
    organizations = [admin.post("/organizations", json={"name": name}).json()["id"] for name in "ab"]
    people = [insert_person(module_settings, f"{name}@example.com") for name in "abc"]
    for person_id in people:
        make_member_key(module_settings, person_id, UUID(organizations[0]), "client")
    files = [upload["params"]["file_id"] for upload in uploads]
    manual_worker.succeed(uploads[0]["id"])
    usage = served.client("a limited organization").get("/usage").json()
    return {
        "caller_id": cycle([usage["caller_id"], str(new_id())]),
        "task_id": cycle([*tasks, str(new_id())]),
        "done_task_id": cycle([*tasks[1::5], *tasks[2::5], str(new_id())]),
        "batch_id": cycle([batch["batch_id"], *batches, str(new_id())]),
        "file_id": cycle([*files, str(new_id())]),
        "workflow_id": cycle([*workflows, str(new_id())]),
        "schedule_id": cycle([*schedules, str(new_id())]),
        "endpoint_id": cycle([*endpoints, str(new_id())]),
        "key_id": cycle([*(str(served.key("a service").id) for _ in range(3)), str(new_id())]),
        "organization_id": cycle([*organizations, usage["organization_id"], str(new_id())]),
        "person_id": cycle([*map(str, people), str(new_id())]),
        "session_id": cycle([str(new_id())]),
        "invitation_id": cycle([str(new_id())]),
        "delivery_id": cycle([*deliveries, str(new_id())]),
        "queue": cycle(["files", "email", "nope"]),
        "kind": cycle(["files.inspect", "platform.canary", "nope"]),
        "name": cycle(["validation", "unreadable-image", "timed-out", "nope"]),
    }


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), STATUSES)
def test_the_application_conforms_to_the_schema(
    schema: BaseSchema,
    subjects: dict[str, Iterator[str]],
    admin: httpx2.Client,
    method: str,
    path: str,
    mode: GenerationMode,
) -> None:
    operation = schema[path][method.upper()]
    credentials = {"Authorization": admin.headers["authorization"]}

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE:
            for name in case.path_parameters:
                case.path_parameters[name] = next(subjects[name])
            if path == "/tasks/{task_id}/events":
                case.path_parameters["task_id"] = next(subjects["done_task_id"])
        if (method, path) in ENDLESS:
            case.query["last_event_id"] = "x"
        if path.endswith("/test"):
            # No worker runs here, so that the test of an endpoint would wait for long.
            case.path_parameters["endpoint_id"] = str(new_id())
        if str(case.query.get("wait", "")) in map(str, range(1, 61)):
            case.query["wait"] = 1
        if path == "/files" and mode is GenerationMode.NEGATIVE:
            # With validate_only the file may be missing, which a schema cannot express.
            case.query.pop("validate_only", None)
        # A request that fits the schema may still be refused: a schema cannot express which cursors, file ids and
        # addresses are valid, nor that `run_at` excludes `delay`.
        case.call_and_validate(headers=credentials, excluded_checks=[positive_data_acceptance])

    # An operation without parameters and body has no invalid request.
    with suppress(Unsatisfiable):
        ask()
