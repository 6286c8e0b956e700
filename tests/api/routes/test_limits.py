"""Limits of organizations and callers: who may see and change them, and that what exceeds them is refused with its name."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx2
import psycopg
import pytest

from shared.identifiers import new_id
from shared.limits import Limits
from shared.settings import Settings
from tests.conftest import Api, Eventually, serve_api

EMAIL = {"to": ["ada@example.com"], "text": "hello"}


class Organization:
    """A new organization with a client, and the admin of the platform, who sets its limits."""

    def __init__(self, served: Api, admin: httpx2.Client, eventually: Eventually) -> None:
        self.name = f"limited-{new_id().hex}"
        self.client = served.client(self.name)
        self.id, self.caller_id = (self.usage()[name] for name in ("organization_id", "caller_id"))
        self._admin = admin
        self._eventually = eventually

    def usage(self) -> dict[str, object]:
        """Return the answer of `GET /usage`."""
        answer = self.client.get("/usage")
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    def limit(self, **limits: object) -> None:
        """Replace the limits of the organization, and wait until they are in force."""
        answer = self._admin.put(f"/organizations/{self.id}/limits", json=limits)
        assert answer.status_code == 200, answer.text
        self._eventually(lambda: self.usage()["organization"]["limits"] == answer.json()["effective"])  # type: ignore[index]

    def submit(self, path: str = "/emails", **body: object) -> httpx2.Response:
        """Submit an email, or something else."""
        return self.client.post(path, json={**EMAIL, **body} if path == "/emails" else body)


@pytest.fixture
def organization(served: Api, admin: httpx2.Client, eventually: Eventually) -> Organization:
    return Organization(served, admin, eventually)


def require_problem(answer: httpx2.Response, status: int, name: str) -> None:
    assert (answer.status_code, answer.json().get("type")) == (status, f"/problems/{name}"), answer.text


def test_fifty_parallel_submissions_are_accepted_exactly_up_to_the_quota(organization: Organization) -> None:
    organization.limit(tasks_per_day=20)

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: organization.submit(), range(50)))

    refused = [answer for answer in answers if answer.status_code != 202]
    assert len(answers) - len(refused) == 20
    for answer in refused:
        require_problem(answer, 429, "quota-tasks-per-day")
        assert 1 <= int(answer.headers["retry-after"]) <= 86_401
    usage = organization.usage()
    assert usage["organization"]["tasks_per_day"] == {"used": 20, "allowed": 20}  # type: ignore[index]
    assert [day["tasks"] for day in usage["history"]] == [20]  # type: ignore[attr-defined, index]


def test_a_repeated_request_is_answered_although_the_quota_is_used_up(organization: Organization) -> None:
    organization.limit(tasks_per_day=1)

    first = organization.client.post("/emails", json=EMAIL, headers={"Idempotency-Key": "once"})
    again = organization.client.post("/emails", json=EMAIL, headers={"Idempotency-Key": "once"})

    assert (first.status_code, again.status_code, again.json()["id"]) == (202, 202, first.json()["id"])
    assert again.headers["idempotency-replayed"] == "true"


def test_every_way_of_submitting_is_counted(organization: Organization, admin: httpx2.Client) -> None:
    task = {"kind": "email.send", "params": EMAIL}
    step = {"name": "one", **task}
    organization.limit(tasks_per_day=6)

    assert organization.submit("/tasks", **task).status_code == 202
    assert organization.submit("/tasks/batch", tasks=[task, task]).status_code == 202
    assert organization.submit("/workflows", steps=[step, {**step, "name": "two", "after": ["one"]}]).status_code == 202
    require_problem(
        organization.submit("/workflows", steps=[step, {**step, "name": "two"}]), 429, "quota-tasks-per-day"
    )
    require_problem(organization.submit("/tasks/batch", tasks=[task, task]), 429, "quota-tasks-per-day")
    uploaded = organization.client.post("/files", files={"file": ("a.txt", b"hello")})
    assert uploaded.status_code == 202
    require_problem(organization.client.post("/files", files={"file": ("a.txt", b"hello")}), 429, "quota-tasks-per-day")
    require_problem(organization.submit(unique_for=60), 429, "quota-tasks-per-day")


def test_quotas_of_emails_files_retention_and_senders_are_named(organization: Organization) -> None:
    organization.limit(
        emails_per_day=2,
        recipients_per_day=3,
        upload_bytes=10,
        stored_bytes=12,
        retention_seconds=3600,
        senders=["ada@example.com", "@example.org"],
    )

    assert (
        organization.submit(**{"from": "Ada <ADA@example.com>", "to": ["a@example.com", "b@example.com"]}).status_code
        == 202
    )
    require_problem(organization.submit(to=["a@example.com", "b@example.com"]), 429, "quota-recipients-per-day")
    refused = organization.submit(**{"from": "eve@example.com"})
    require_problem(refused, 403, "quota-senders")
    assert refused.json()["errors"][0]["pointer"] == "/from"
    assert organization.submit(**{"from": "eve@example.org"}).status_code == 202
    require_problem(organization.submit(), 429, "quota-emails-per-day")
    require_problem(organization.submit(keep_for=3601), 422, "quota-retention-seconds")

    def upload(size: int, **fields: str) -> httpx2.Response:
        return organization.client.post("/files", files={"file": ("a.txt", b"x" * size)}, data=fields)

    require_problem(upload(11), 413, "quota-upload-bytes")
    require_problem(upload(5, keep_for="3601"), 422, "quota-retention-seconds")
    file_id = upload(10).json()["params"]["file_id"]
    require_problem(upload(5), 413, "quota-stored-bytes")
    assert organization.usage()["organization"]["stored_bytes"] == {"used": 10, "allowed": 12}  # type: ignore[index]
    assert organization.client.get(f"/files/{file_id}").json()["expires_at"] is not None


def test_what_is_kept_by_default_is_kept_no_longer_than_allowed(organization: Organization, served: Api) -> None:
    organization.limit(retention_seconds=60)
    task_id = organization.submit().json()["id"]

    with psycopg.connect(served.settings.database_url) as connection:
        row = connection.execute("SELECT keep_seconds FROM tasks WHERE id = %s", (task_id,)).fetchone()

    assert row == (60,)


def test_a_finished_task_makes_room_for_another_live_one(organization: Organization) -> None:
    organization.limit(live_tasks=1)
    first = organization.submit()
    refused = organization.submit()
    organization.client.post(f"/tasks/{first.json()['id']}/cancel")

    require_problem(refused, 429, "quota-live-tasks")
    assert organization.submit().status_code == 202
    assert organization.usage()["organization"]["live_tasks"] == {"used": 1, "allowed": 1}  # type: ignore[index]


def test_a_caller_is_limited_within_its_organization(organization: Organization, admin: httpx2.Client) -> None:
    path = f"/organizations/{organization.id}/callers/{organization.caller_id}/limits"
    organization.limit(tasks_per_day=5)

    answer = admin.put(path, json={"tasks_per_day": 1})

    assert answer.json()["limits"] == {"tasks_per_day": 1}
    assert organization.client.get(path).json() == answer.json()
    assert [organization.submit().status_code for _ in range(2)] == [202, 429]


def test_only_admins_of_the_platform_change_limits(organization: Organization, operator: httpx2.Client) -> None:
    path = f"/organizations/{organization.id}/limits"

    for client in (organization.client, operator):
        require_problem(client.put(path, json={"tasks_per_day": 1}), 403, "forbidden")
    assert operator.get(path).status_code == 200


def test_foreign_and_absent_organizations_are_answered_alike(
    organization: Organization, stranger: httpx2.Client, admin: httpx2.Client
) -> None:
    foreign, absent = f"/organizations/{organization.id}/limits", f"/organizations/{new_id()}/limits"

    answers = [stranger.get(foreign), stranger.get(absent), admin.get(absent), admin.put(absent, json={})]

    for answer in answers:
        require_problem(answer, 404, "not-found")
    assert answers[0].json()["detail"] == answers[1].json()["detail"]
    require_problem(admin.put(f"/organizations/{organization.id}/callers/{new_id()}/limits", json={}), 404, "not-found")


@pytest.mark.parametrize(
    ("limits", "pointer"),
    [
        ({"tasks_per_day": -1}, "/tasks_per_day"),
        ({"tasks_per_day": 1.5}, "/tasks_per_day"),
        ({"tasks": 1}, "/tasks"),
        ({"running_by_queue": {"other": 1}}, "/running_by_queue/other"),
        ({"running_by_kind": {"other.kind": 1}}, "/running_by_kind/other.kind"),
        ({"senders": ["example.com"]}, "/senders/0"),
        ({"requests_per_minute": {"read": 0}}, "/requests_per_minute/read"),
    ],
)
def test_invalid_limits_are_refused(
    organization: Organization, admin: httpx2.Client, limits: dict[str, object], pointer: str
) -> None:
    answer = admin.put(f"/organizations/{organization.id}/limits", json=limits)

    require_problem(answer, 422, "validation")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_a_change_of_limits_is_audited(organization: Organization, served: Api) -> None:
    organization.limit(tasks_per_day=7, senders=["@example.com"], requests_per_minute={"read": 1000})

    with psycopg.connect(served.settings.database_url) as connection:
        rows = connection.execute(
            "SELECT action, before, after FROM audit_entries"
            " WHERE organization_id = %s AND resource_type = 'organization' ORDER BY id",
            (organization.id,),
        ).fetchall()

    assert rows == [
        ("organization.quota_changed", {"limits": {}}, {"limits": {"tasks_per_day": 7, "senders": 1}}),
        ("organization.rate_limit_changed", {"limits": {}}, {"limits": {"requests_per_minute": {"read": 1000}}}),
    ]


@pytest.fixture(scope="module")
def with_defaults(module_settings: Settings) -> Iterator[Api]:
    """An API whose settings limit organizations and callers."""
    limits = {"organization_limits": Limits(tasks_per_day=2), "caller_limits": Limits(senders=["@example.com"])}
    with serve_api(module_settings.model_copy(update=limits)) as api:
        yield api


def test_limits_of_the_settings_hold_for_who_has_none_of_its_own(
    with_defaults: Api, admin: httpx2.Client, eventually: Eventually
) -> None:
    limited = Organization(with_defaults, admin, eventually)
    free = Organization(with_defaults, admin, eventually)
    free.limit(tasks_per_day=None)

    assert [limited.submit().status_code for _ in range(3)] == [202, 202, 429]
    assert [free.submit().status_code for _ in range(3)] == [202, 202, 202]
    require_problem(limited.submit(**{"from": "eve@example.org"}), 403, "quota-senders")
    assert UUID(str(limited.id)) != UUID(str(free.id))
