"""Every route, with every role and every scope, allows what the table of permissions says, and shows nothing to strangers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args
from uuid import UUID

import httpx2
import psycopg
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute

from api.app import ROUTERS
from api.auth.route_permissions import list_permissions
from shared.api_keys import KeyGrant, create_key, ensure_service, issue_key
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.permissions import (
    ORGANIZATION_ROLES,
    RULES,
    SCOPES,
    OrganizationRole,
    Permission,
    PlatformRole,
    Scope,
    expand_scopes,
)
from shared.settings import Settings
from tests.api.conftest import ManualWorker, SendRaw
from tests.conftest import Api
from tests.people import insert_person, make_member_key

ROLES: list[tuple[OrganizationRole, PlatformRole | None]] = [
    *((role, None) for role in ORGANIZATION_ROLES),
    ("viewer", "operator"),
    ("admin", "admin"),
]
ROUTES = [
    (method, route.path, list_permissions(route))
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute) and list_permissions(route)
    for method in sorted(route.methods or ())
]
SOCKETS = [
    (route.path, list_permissions(route))
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIWebSocketRoute)
]
QUERIES = {"/events": "?last_event_id=x", "/batches/{batch_id}/events": "?last_event_id=x"}
"""A query that lets a stream be refused, which would otherwise last."""
MESSAGE = {"to": ["ada@example.com"], "text": "a secret text"}


def fill(path: str, ids: Mapping[str, str] | None = None) -> str:
    """Return a path with ids in the place of its parameters: the given ones, or else those of nothing."""
    known = ids or {}
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], str(new_id())), path)


def is_allowed(
    permissions: tuple[Permission, ...], role: str, platform_role: str | None, scopes: frozenset[Scope]
) -> bool:
    """Return what the table says: whether a role with some scopes has all of the permissions."""
    rules = [RULES[permission] for permission in permissions]
    return all(
        (rule.scope is None or rule.scope in expand_scopes(scopes))
        and (role in rule.roles or platform_role in rule.platform_roles)
        for rule in rules
    )


@pytest.mark.parametrize(("role", "platform_role"), ROLES)
def test_a_route_allows_what_the_table_says(
    served: Api,
    module_settings: Settings,
    send_raw: SendRaw,
    role: OrganizationRole,
    platform_role: PlatformRole | None,
) -> None:
    engine = make_engine(module_settings, "test")
    with engine.begin() as connection:
        organization_id = UUID(int=new_id().int)
        connection.exec_driver_sql(
            "INSERT INTO organizations (id, name) VALUES (%s, %s)", (organization_id, str(organization_id))
        )
        caller_id = ensure_service(connection, organization_id, "walker")
        callers = {
            scopes: issue_key(
                connection, caller_id, organization_id, "walker", KeyGrant(role, platform_role, tuple(scopes))
            ).key
            for scopes in ({frozenset([scope]) for scope in get_args(Scope)} | {frozenset(SCOPES)})
        }
    engine.dispose()
    wrong = []

    for scopes, key in callers.items():
        client = served.client_with(key)
        for method, path, permissions in ROUTES:
            answer = client.request(method, fill(path) + QUERIES.get(path, ""))
            assert answer.status_code != 401 and answer.status_code < 500, (method, path, answer.text)
            if (answer.status_code != 403) != is_allowed(permissions, role, platform_role, scopes):
                wrong.append((method, path, sorted(scopes), answer.status_code, answer.text))
        for path, permissions in SOCKETS:
            handshake = (
                f"GET {fill(path)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            status = send_raw(handshake.encode(), patience_seconds=0.2).split(b" ")[1].decode()
            if (status != "403") != is_allowed(permissions, role, platform_role, scopes):
                wrong.append(("WebSocket", path, sorted(scopes), status))

    assert wrong == []


@dataclass
class Owned:
    """What an organization owns: the id of one thing of each kind, by the name of the path parameter."""

    ids: dict[str, str] = field(default_factory=dict)

    def describe(self, connection: psycopg.Connection[tuple[object, ...]]) -> list[object]:
        """Return what a stranger could have changed."""
        found = []
        for statement, name in (
            ("SELECT status, version, cancel_requested_at FROM tasks WHERE id = %s", "task_id"),
            ("SELECT array_agg(version) FROM tasks WHERE batch_id = %s", "batch_id"),
            ("SELECT status, cancel_requested_at FROM workflows WHERE id = %s", "workflow_id"),
            ("SELECT name, enabled, version FROM schedules WHERE id = %s", "schedule_id"),
            ("SELECT count(*) FROM schedule_slots WHERE schedule_id = %s", "schedule_id"),
            ("SELECT url, enabled, version FROM webhook_endpoints WHERE id = %s", "endpoint_id"),
            ("SELECT state FROM webhook_deliveries WHERE id = %s", "delivery_id"),
            ("SELECT name FROM files WHERE id = %s", "file_id"),
            ("SELECT revoked_at, expires_at FROM api_keys WHERE id = %s", "key_id"),
            ("SELECT count(*) FROM api_keys WHERE replaces_id = %s", "key_id"),
            ("SELECT name, disabled_at FROM organizations WHERE id = %s", "organization_id"),
            ("SELECT count(*) FROM limits WHERE subject_id = %s", "organization_id"),
            ("SELECT count(*) FROM limits WHERE subject_id = %s", "caller_id"),
            ("SELECT array_agg(role) FROM memberships WHERE organization_id = %s", "organization_id"),
        ):
            found.append((name, connection.execute(statement, [self.ids[name]]).fetchone()))  # type: ignore[call-overload]
        return found


@pytest.fixture(scope="module")
def owned(served: Api, module_settings: Settings, manual_worker: ManualWorker) -> Owned:
    """The things of one organization."""
    key = create_key(module_settings, "owner", "admin", organization_only=True)
    owner = served.client_with(key.key)
    task = {"kind": "email.send", "params": MESSAGE}
    hook = {"url": "http://127.0.0.1:9/", "event_types": ["task.failed"]}
    ids = {
        "task_id": owner.post("/tasks", json=task).json()["id"],
        "batch_id": owner.post("/tasks/batch", json={"tasks": [task]}).json()["batch_id"],
        "workflow_id": owner.post("/workflows", json={"steps": [{"name": "a", **task}]}).json()["id"],
        "schedule_id": owner.post("/schedules", json={"name": "hourly", "every": 3600, **task}).json()["id"],
        "endpoint_id": owner.post("/webhook-endpoints", json=hook).json()["id"],
        "file_id": owner.post("/files", files={"file": ("a.txt", b"some words")}).json()["params"]["file_id"],
        "key_id": str(key.id),
        "organization_id": str(key.organization_id),
        "caller_id": str(key.caller_id),
    }
    manual_worker.fail(owner.post("/tasks", json=task).json()["id"])
    ids["delivery_id"] = owner.get("/webhook-deliveries").json()["items"][0]["id"]
    person_id = insert_person(module_settings, "member@example.com")
    make_member_key(module_settings, person_id, key.organization_id, "client")
    ids["person_id"] = str(person_id)
    return Owned(ids)


@pytest.fixture(params=ORGANIZATION_ROLES)
def outsider(request: pytest.FixtureRequest, served: Api, module_settings: Settings) -> Iterator[httpx2.Client]:
    """A client of another organization, with all scopes of its role."""
    name = f"outsider {request.param}"
    yield served.client_with(create_key(module_settings, name, request.param, organization_only=True).key)


def test_the_ids_of_an_organization_are_as_if_absent_for_another(
    owned: Owned, outsider: httpx2.Client, manual_worker: ManualWorker
) -> None:
    before = owned.describe(manual_worker.connection)
    differing = []

    for method, path, _ in ROUTES:
        if not owned.ids.keys() & re.findall(r"\{(\w+)\}", path):
            continue
        bodies: dict[str, object] = {}
        if method in {"POST", "PATCH", "PUT"}:
            bodies = {"json": BODIES.get((method, path), {}), "headers": {"If-Match": '"1"'}}
        theirs = outsider.request(method, fill(path, owned.ids), **bodies)  # type: ignore[arg-type]
        nothing = outsider.request(method, fill(path), **bodies)  # type: ignore[arg-type]
        shown = [(answer.status_code, answer.json().get("detail")) for answer in (theirs, nothing)]
        if shown[0] != shown[1] or theirs.status_code not in {403, 404}:
            differing.append((method, path, shown))

    assert differing == []
    assert owned.describe(manual_worker.connection) == before


BODIES = {
    ("PATCH", "/schedules/{schedule_id}"): {"enabled": False},
    ("PATCH", "/webhook-endpoints/{endpoint_id}"): {"enabled": False},
    ("PATCH", "/organizations/{organization_id}"): {"disabled": True},
    ("POST", "/organizations/{organization_id}/members"): {"email": "member@example.com", "role": "admin"},
    ("PATCH", "/organizations/{organization_id}/members/{person_id}"): {"role": "admin"},
    ("PUT", "/organizations/{organization_id}/limits"): {"live_tasks": 0},
    ("PUT", "/organizations/{organization_id}/callers/{caller_id}/limits"): {"live_tasks": 0},
}
"""Bodies that would change something."""


def test_no_list_shows_an_id_of_another_organization(owned: Owned, outsider: httpx2.Client) -> None:
    lists = [path for method, path, _ in ROUTES if method == "GET" and "{" not in path and path != "/events"]
    filters = [f"{name}={owned.ids[name]}" for name in ("batch_id", "workflow_id", "schedule_id")]
    queries = {"/tasks": filters, "/webhook-deliveries": [f"task_id={owned.ids['task_id']}"]}

    for path in lists:
        for query in ("", *queries.get(path, ())):
            for accept in ("application/json", "text/csv"):
                answer = outsider.get(f"{path}?{query}", headers={"Accept": accept})
                assert answer.status_code in {200, 403, 406}, (path, answer.text)
                assert [name for name, thing in owned.ids.items() if thing in answer.text] == [], (path, query)
