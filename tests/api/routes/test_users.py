"""`/users`, `/invitations` and `/admin/overview`: who may see and change whom, and who may register."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from shared.settings import Settings
from tests.api.people import CHEAP_HASHES, PASSWORD, People, ReadTokens, open_database, open_mailbox, token_in
from tests.conftest import Api, Eventually, serve_api

NEW_PASSWORD = "nine silent herons"


@pytest.fixture(scope="module")
def people_settings(module_settings: Settings) -> Settings:
    return module_settings.model_copy(update={**CHEAP_HASHES, "registration": "invite", "rate_limit_sign_in": 100_000})


@pytest.fixture(scope="module")
def served_people(people_settings: Settings) -> Iterator[Api]:
    with serve_api(people_settings) as api:
        yield api


@pytest.fixture(scope="module")
def people(served_people: Api, people_settings: Settings) -> People:
    return People(served_people, people_settings)


@pytest.fixture
def emails(people_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadTokens]:
    with open_mailbox(people_settings, tmp_path, monkeypatch) as deliver:
        yield deliver


def problem(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def invite(by: httpx2.Client, email: str, **fields: str) -> httpx2.Response:
    return by.post("/invitations", json={"email": email, **fields})


def test_people_see_and_change_themselves(people: People) -> None:
    ada = people.signed_in()

    changed = ada.client.patch("/users/me", json={"name": "  Zoe\u0308 "})

    assert changed.json()["name"] == "Zo\u00eb"
    assert changed.json() == ada.client.get("/users/me").json()
    for fields in ({"platform_role": "admin"}, {"email": "x@example.com"}, {"name": "\u202e\0"}, {}, {"name": 1}):
        assert ada.client.patch("/users/me", json=fields).status_code == 422


def test_only_admins_of_the_platform_see_others(people: People) -> None:
    ada, admin = people.signed_in("admin"), people.signed_in(admin=True)

    assert problem(ada.client.get("/users")) == (403, "forbidden")
    assert problem(ada.client.get(f"/users/{ada.id}")) == (403, "forbidden")
    assert problem(ada.client.get("/admin/overview")) == (403, "forbidden")
    listed = admin.client.get("/users?limit=2").json()
    assert [user["id"] for user in listed["items"]] == [admin.id, ada.id]
    assert listed["next_cursor"] is not None
    assert "password" not in str(listed).replace("has_password", "")
    assert admin.client.get(f"/users/{ada.organization_id}").status_code == 404


def test_the_overview_counts_people_tasks_and_storage(people: People) -> None:
    admin = people.signed_in(admin=True)
    before = admin.client.get("/admin/overview").json()
    people.signed_in().client.post("/emails", json={"to": ["a@example.com"], "text": "x"})

    after = admin.client.get("/admin/overview").json()

    assert after["people"]["total"] == before["people"]["total"] + 1
    assert after["people"]["sessions"] == before["people"]["sessions"] + 1
    assert after["tasks"]["total"] == before["tasks"]["total"] + 1
    assert after["storage"] == {"files": 0, "bytes": 0}


def test_a_disabled_person_is_kept_out_until_enabled(people: People, eventually: Eventually) -> None:
    admin, ada = people.signed_in(admin=True), people.signed_in()

    assert admin.client.patch(f"/users/{ada.id}", json={"disabled": True}).json()["disabled"]

    eventually(lambda: ada.client.get("/tasks").status_code == 401, seconds=2)
    assert problem(people.sign_in(ada.email)) == (401, "invalid-credentials")
    assert people.nobody.post("/auth/refresh", json={"refresh_token": ada.tokens["refresh_token"]}).status_code == 401
    assert not admin.client.patch(f"/users/{ada.id}", json={"disabled": False}).json()["disabled"]
    assert people.sign_in(ada.email).status_code == 200


def test_a_new_platform_role_takes_effect_at_the_next_refresh(people: People, eventually: Eventually) -> None:
    admin, ada = people.signed_in(admin=True), people.signed_in()

    admin.client.patch(f"/users/{ada.id}", json={"platform_role": "admin"})
    eventually(lambda: ada.client.get("/tasks").status_code == 401, seconds=2)
    tokens = people.nobody.post("/auth/refresh", json={"refresh_token": ada.tokens["refresh_token"]}).json()

    promoted = people.api.client_with(tokens["access_token"])
    assert promoted.get("/users").status_code == 200
    assert admin.client.patch(f"/users/{ada.id}", json={"platform_role": None}).status_code == 200
    eventually(lambda: promoted.get("/users").status_code == 401, seconds=2)


def test_nobody_changes_their_own_role_or_disables_themselves(people: People) -> None:
    admin = people.signed_in(admin=True)

    for change in ({"platform_role": None}, {"disabled": True}):
        assert problem(admin.client.patch(f"/users/{admin.id}", json=change)) == (403, "forbidden")


def test_the_last_admin_of_the_platform_stays(people: People) -> None:
    with open_database(people.settings) as connection:
        connection.execute("UPDATE people SET platform_role = NULL")
    last, key = people.signed_in(admin=True), people.api.client("service", "admin")

    assert problem(last.client.delete("/users/me")) == (409, "conflict")
    for change in ({"platform_role": None}, {"platform_role": "operator"}, {"disabled": True}):
        assert problem(key.patch(f"/users/{last.id}", json=change)) == (409, "conflict")
    other = people.signed_in(admin=True)
    assert other.client.patch(f"/users/{last.id}", json={"platform_role": None}).status_code == 200


def test_a_deleted_account_is_gone_and_its_tasks_stay(people: People, eventually: Eventually) -> None:
    ada = people.signed_in()
    task = ada.client.post("/emails", json={"to": ["a@example.com"], "text": "x"}).json()["id"]

    assert ada.client.delete("/users/me").status_code == 204

    eventually(lambda: ada.client.get("/tasks").status_code == 401, seconds=2)
    assert problem(people.sign_in(ada.email)) == (401, "invalid-credentials")
    admin = people.signed_in(admin=True)
    assert admin.client.get(f"/tasks/{task}").status_code == 200
    assert ada.email not in admin.client.get("/users?limit=200").text
    assert People(people.api, people.settings).create() != ada.email


def test_the_key_that_a_person_made_ends_with_the_account(people: People, eventually: Eventually) -> None:
    ada = people.signed_in()
    made = ada.client.post("/api-keys", json={"name": "laptop"}).json()
    client = people.api.client_with(made["key"])
    assert (made["owner"]["person_id"], client.get("/tasks").status_code) == (ada.id, 200)

    ada.client.delete("/users/me")

    eventually(lambda: client.get("/tasks").status_code == 401, seconds=2)
    with open_database(people.settings) as connection:
        rows = connection.execute("SELECT revoked_at FROM api_keys WHERE id = %s", [made["id"]]).fetchall()
    assert rows[0][0] is not None


def test_deleting_an_account_needs_a_recent_sign_in(people: People) -> None:
    ada = people.signed_in()
    with open_database(people.settings) as connection:
        connection.execute(
            "UPDATE sessions SET created_at = now() - interval '16 minutes' WHERE person_id = %s", [ada.id]
        )

    assert problem(ada.client.delete("/users/me")) == (403, "recent-sign-in-required")


def test_a_forced_password_ends_the_old_one_and_sends_a_token(people: People, emails: ReadTokens) -> None:
    admin, ada = people.signed_in(admin=True), people.signed_in()

    assert not admin.client.post(f"/users/{ada.id}/force-password").json()["has_password"]

    assert problem(people.sign_in(ada.email)) == (401, "invalid-credentials")
    [(recipient, text)] = emails()
    assert recipient == ada.email
    body = {"token": token_in(text), "password": NEW_PASSWORD}
    assert people.nobody.post("/auth/reset-password", json=body).status_code == 204
    assert people.sign_in(ada.email, NEW_PASSWORD).status_code == 200


def test_an_invited_person_registers_once_with_the_invited_address(people: People, emails: ReadTokens) -> None:
    owner, email = people.signed_in("admin"), people.email()
    invitation = invite(owner.client, email, role="viewer").json()
    [(recipient, text)] = emails()
    body = {"email": email, "password": PASSWORD, "invitation": token_in(text)}

    assert recipient == email
    assert token_in(text) not in str(invitation)
    assert problem(people.nobody.post("/auth/register", json={**body, "invitation": None})) == (
        403,
        "registration-closed",
    )
    other = people.nobody.post("/auth/register", json={**body, "email": people.email()})
    assert other.json()["errors"][0]["pointer"] == "/email"
    weak = people.nobody.post("/auth/register", json={**body, "password": "short"})
    assert weak.json()["errors"][0]["pointer"] == "/password"
    registered = people.nobody.post("/auth/register", json=body)
    assert registered.status_code == 201, registered.text
    assert [(one["organization_id"], one["role"]) for one in registered.json()["memberships"]] == [
        (owner.organization_id, "viewer")
    ]
    assert people.sign_in(email).status_code == 200
    again = people.nobody.post("/auth/register", json={**body, "email": people.email()})
    assert again.json()["errors"][0]["pointer"] == "/invitation"


def test_an_invitation_is_accepted_by_its_person_only(people: People, emails: ReadTokens) -> None:
    owner, ada, eve = people.signed_in("admin"), people.signed_in(), people.signed_in()
    invite(owner.client, ada.email.upper(), role="operator")
    token = {"invitation": token_in(emails()[0][1])}

    stolen = eve.client.post("/invitations/accept", json=token)
    accepted = ada.client.post("/invitations/accept", json=token)
    repeated = ada.client.post("/invitations/accept", json=token)

    assert (stolen.status_code, accepted.status_code, repeated.status_code) == (422, 200, 422)
    roles = {one["organization_id"]: one["role"] for one in accepted.json()["memberships"]}
    assert roles[owner.organization_id] == "operator"
    there = people.enter(ada.email, organization=owner.organization_id)
    assert "tasks:write" in there.tokens["scope"]
    assert problem(people.sign_in(eve.email, organization=owner.organization_id)) == (422, "validation")


def test_an_admin_of_one_organization_invites_to_no_other(people: People, emails: ReadTokens) -> None:
    ada, bob, client = people.signed_in("admin"), people.signed_in("admin"), people.signed_in("client")
    mine = invite(ada.client, people.email()).json()

    assert problem(invite(client.client, people.email())) == (403, "forbidden")
    foreign = invite(ada.client, people.email(), organization_id=bob.organization_id)
    assert foreign.json()["errors"][0]["pointer"] == "/organization_id"
    assert invite(ada.client, people.email(), organization_id="x").status_code == 422
    assert [item["id"] for item in ada.client.get("/invitations").json()["items"]] == [mine["id"]]
    assert bob.client.get("/invitations").json()["items"] == []
    assert bob.client.delete(f"/invitations/{mine['id']}").status_code == 404
    assert ada.client.delete(f"/invitations/{mine['id']}").status_code == 204
    assert emails() == []


def test_a_member_is_not_invited_again(people: People) -> None:
    ada = people.signed_in("admin")

    assert problem(invite(ada.client, ada.email)) == (409, "conflict")


def test_where_registration_is_closed_nobody_registers(people: People) -> None:
    with serve_api(people.settings.model_copy(update={"registration": "closed"})) as api:
        closed = People(api, people.settings)
        admin = closed.signed_in(admin=True)

        body = {"email": people.email(), "password": PASSWORD}
        assert problem(closed.nobody.post("/auth/register", json=body)) == (403, "registration-closed")
        assert problem(invite(admin.client, people.email())) == (403, "registration-closed")
        assert invite(admin.client, people.create()).status_code == 201
