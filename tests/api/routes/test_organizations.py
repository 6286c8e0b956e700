"""`/organizations` and their members: who manages them, and what a change means for the keys of a member."""

from __future__ import annotations

from uuid import UUID, uuid4

import httpx2
import pytest

from shared.api_keys import create_key
from shared.identifiers import new_id
from shared.settings import Settings
from tests.api.conftest import ErrorsOf, ManualWorker
from tests.conftest import Api, Eventually
from tests.people import insert_person, make_member_key


@pytest.fixture
def organization_id(admin: httpx2.Client) -> str:
    """A new organization."""
    answer = admin.post("/organizations", json={"name": f"organization {uuid4().hex}"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def person_id(module_settings: Settings) -> UUID:
    """A person who is no member of any organization."""
    return insert_person(module_settings, f"{uuid4().hex}@example.com")


@pytest.fixture
def boss_id(module_settings: Settings) -> UUID:
    """The person who is `boss`."""
    return insert_person(module_settings, f"{uuid4().hex}@example.com")


@pytest.fixture
def boss(served: Api, module_settings: Settings, organization_id: str, boss_id: UUID) -> httpx2.Client:
    """The only admin of the new organization."""
    return served.client_with(make_member_key(module_settings, boss_id, UUID(organization_id), "admin"))


def test_a_platform_admin_creates_renames_and_lists_organizations(admin: httpx2.Client, organization_id: str) -> None:
    name = f"renamed {uuid4().hex}"

    renamed = admin.patch(f"/organizations/{organization_id}", json={"name": name})

    assert renamed.json()["name"] == name
    assert admin.get(f"/organizations/{organization_id}").json() == renamed.json()
    assert admin.get("/organizations?limit=1").json()["items"] == [renamed.json()]
    taken = admin.post("/organizations", json={"name": name})
    assert (taken.status_code, taken.json()["type"]) == (409, "/problems/name-taken")


def test_a_platform_admin_weighs_organizations(
    admin: httpx2.Client, boss: httpx2.Client, organization_id: str, errors_of: ErrorsOf
) -> None:
    path = f"/organizations/{organization_id}"
    assert admin.get(path).json()["weight"] == 1

    assert admin.patch(path, json={"weight": 3}).json()["weight"] == 3

    assert admin.get(path).json()["weight"] == 3
    assert errors_of(admin.patch(path, json={"weight": 0})) == {"/weight": "greater_than_equal"}
    assert errors_of(admin.patch(path, json={"weight": 101})) == {"/weight": "less_than_equal"}
    assert boss.patch(path, json={"weight": 5}).status_code == 403
    entries = admin.get("/audit", params={"action": "organization.weight_changed"}).json()["items"]
    assert [(entry["before"], entry["after"]) for entry in entries] == [({"weight": 1}, {"weight": 3})]


def test_only_platform_admins_manage_organizations(
    client: httpx2.Client, operator: httpx2.Client, boss: httpx2.Client, organization_id: str
) -> None:
    for by in (client, operator, boss):
        assert by.post("/organizations", json={"name": "mine"}).status_code == 403
        assert by.get("/organizations").status_code == 403
        assert by.patch(f"/organizations/{organization_id}", json={"name": "mine"}).status_code == 403
    assert boss.get(f"/organizations/{organization_id}").status_code == 200


def test_an_admin_manages_the_members_of_their_own_organization_only(
    admin: httpx2.Client, boss: httpx2.Client, organization_id: str, person_id: UUID
) -> None:
    members, other = f"/organizations/{organization_id}/members", f"{uuid4().hex} other"
    other_id = admin.post("/organizations", json={"name": other}).json()["id"]

    added = boss.post(members, json={"person_id": str(person_id), "role": "viewer"})
    changed = boss.patch(f"{members}/{person_id}", json={"role": "operator"})

    assert (added.status_code, added.json()["role"], changed.json()["role"]) == (201, "viewer", "operator")
    assert boss.get(added.headers["location"]).json() == changed.json()
    assert {member["role"] for member in boss.get(members).json()["items"]} == {"admin", "operator"}
    assert boss.post(members, json={"person_id": str(person_id), "role": "client"}).status_code == 409
    for foreign in (other_id, str(new_id())):
        for method, path in (("GET", ""), ("POST", ""), ("PATCH", f"/{person_id}"), ("DELETE", f"/{person_id}")):
            body = {"json": {"person_id": str(person_id), "role": "admin"}} if method == "POST" else {}
            body = {"json": {"role": "admin"}} if method == "PATCH" else body
            answer = boss.request(method, f"/organizations/{foreign}/members{path}", **body)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such organization.")
    assert boss.delete(f"{members}/{person_id}").status_code == 204
    assert boss.delete(f"{members}/{person_id}").status_code == 404


def test_a_person_is_added_by_the_address_as_it_is_compared(
    admin: httpx2.Client, module_settings: Settings, organization_id: str, errors_of: ErrorsOf
) -> None:
    name = uuid4().hex
    person_id = insert_person(module_settings, f"{name}@example.com")
    members = f"/organizations/{organization_id}/members"

    added = admin.post(members, json={"email": f"{name.upper()}@Example.com", "role": "client"})

    assert added.json()["person_id"] == str(person_id)
    unknown = admin.post(members, json={"email": "nobody@example.com", "role": "client"})
    assert errors_of(unknown) == {"/email": "unknown_person"}
    assert errors_of(admin.post(members, json={"email": "no address", "role": "client"})) == {"/email": "email"}
    assert "" in errors_of(admin.post(members, json={"role": "client"}))


def test_nobody_changes_their_own_role(
    admin: httpx2.Client, boss: httpx2.Client, boss_id: UUID, organization_id: str, person_id: UUID
) -> None:
    members = f"/organizations/{organization_id}/members"
    boss.post(members, json={"person_id": str(person_id), "role": "admin"})

    assert boss.patch(f"{members}/{boss_id}", json={"role": "viewer"}).status_code == 403
    assert boss.get(f"{members}/{boss_id}").json()["role"] == "admin"


def test_the_last_admin_stays_unless_a_platform_admin_decides(
    admin: httpx2.Client, boss: httpx2.Client, boss_id: UUID, organization_id: str
) -> None:
    members = f"/organizations/{organization_id}/members"

    refused = boss.delete(f"{members}/{boss_id}")

    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/conflict")
    assert admin.patch(f"{members}/{boss_id}", json={"role": "client"}).json()["role"] == "client"


def test_the_key_of_a_member_follows_the_role_and_ends_with_the_membership(
    served: Api,
    module_settings: Settings,
    boss: httpx2.Client,
    organization_id: str,
    person_id: UUID,
    eventually: Eventually,
) -> None:
    member = served.client_with(make_member_key(module_settings, person_id, UUID(organization_id), "client"))
    message = {"to": ["ada@example.com"], "text": "hello"}
    path = f"/organizations/{organization_id}/members/{person_id}"
    assert member.post("/emails", json=message).status_code == 202

    boss.patch(path, json={"role": "viewer"})
    eventually(lambda: member.post("/emails", json=message).status_code == 403)
    assert member.get("/tasks").status_code == 200

    boss.delete(path)
    eventually(lambda: member.get("/tasks").status_code == 401)

    boss.post(f"/organizations/{organization_id}/members", json={"person_id": str(person_id), "role": "client"})
    assert member.get("/files").status_code == 401, "the key was revoked"


def test_a_disabled_organization_is_refused_until_it_is_enabled(
    served: Api, module_settings: Settings, admin: httpx2.Client, eventually: Eventually
) -> None:
    name = f"closed {uuid4().hex}"
    key = create_key(module_settings, name)
    client, path = served.client_with(key.key), f"/organizations/{key.organization_id}"
    assert client.get("/tasks").status_code == 200

    assert admin.patch(path, json={"disabled": True}).json()["disabled"] is True
    eventually(lambda: client.get("/tasks").status_code == 401)

    assert admin.patch(path, json={"disabled": False}).json()["disabled"] is False
    assert client.get("/tasks").status_code == 200


def test_a_platform_admin_does_not_disable_their_own_organization(served: Api, module_settings: Settings) -> None:
    key = create_key(module_settings, "admin", "admin")

    refused = served.client_with(key.key).patch(f"/organizations/{key.organization_id}", json={"disabled": True})

    assert refused.status_code == 409


def test_what_happens_to_members_is_audited(
    boss: httpx2.Client, organization_id: str, person_id: UUID, manual_worker: ManualWorker
) -> None:
    members = f"/organizations/{organization_id}/members"
    boss.post(members, json={"person_id": str(person_id), "role": "viewer"})
    boss.patch(f"{members}/{person_id}", json={"role": "client"})
    boss.delete(f"{members}/{person_id}")

    entries = manual_worker.connection.execute(
        "SELECT action, before->>'role', after->>'role' FROM audit_entries WHERE organization_id = %s ORDER BY id",
        [organization_id],
    ).fetchall()

    assert entries == [
        ("organization.created", None, None),
        ("organization.member_added", None, "viewer"),
        ("organization.member_role_changed", "viewer", "client"),
        ("organization.member_removed", "client", None),
    ]
