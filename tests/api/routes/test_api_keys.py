"""`/api-keys`: a key never does more than who made it, and is refused as soon as it should be."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from shared.api_keys import CreatedKey, create_key
from shared.identifiers import new_id
from shared.permissions import SCOPES
from shared.settings import Settings
from tests.api.conftest import ErrorsOf, ManualWorker
from tests.conftest import PATIENCE_SECONDS, Api, Eventually

ALL_OF_A_CLIENT = ["tasks:read", "tasks:write", "files:read", "files:write", "keys:write"]


@pytest.fixture(scope="module")
def owner(served: Api) -> httpx2.Client:
    """A client who may make keys."""
    return served.client("someone", scopes=ALL_OF_A_CLIENT)


@pytest.fixture(scope="module")
def admin_key(module_settings: Settings) -> CreatedKey:
    """The key of an admin of the organization of `owner`."""
    return create_key(module_settings, "boss", "admin", organization="someone", organization_only=True)


@pytest.fixture(scope="module")
def boss(served: Api, admin_key: CreatedKey) -> httpx2.Client:
    """An admin of the organization of `owner`."""
    return served.client_with(admin_key.key)


def make(by: httpx2.Client, **fields: object) -> dict[str, Any]:
    answer = by.post("/api-keys", json={"name": "a key", **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_key_is_shown_once_and_works(served: Api, owner: httpx2.Client) -> None:
    answer = owner.post("/api-keys", json={"name": "nightly", "scopes": ["tasks:read"]})
    made = answer.json()
    shown = owner.get(answer.headers["location"]).json()

    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert {**shown, "key": made["key"]} == made
    assert made["key"].split("_")[1] == made["prefix"]
    assert (made["role"], made["platform_role"], made["scopes"]) == ("client", None, ["tasks:read"])
    assert served.client_with(made["key"]).get("/tasks").status_code == 200
    assert served.client_with(made["key"]).get("/files").status_code == 403
    assert made["key"] not in owner.get("/api-keys").text


def test_a_key_made_without_scopes_cannot_make_keys(served: Api, owner: httpx2.Client) -> None:
    made = make(owner)

    assert made["scopes"] == ["tasks:read", "tasks:write", "files:read", "files:write"]
    refused = served.client_with(made["key"]).post("/api-keys", json={"name": "more"})
    assert refused.status_code == 403
    assert 'scope="keys:write"' in refused.headers["www-authenticate"]


@pytest.mark.parametrize(
    "more",
    [
        {"role": "operator"},
        {"role": "admin", "scopes": ["admin"]},
        {"platform_role": "operator"},
        {"platform_role": "admin", "scopes": ["admin"]},
        {"service": "robot"},
        {"organization_id": str(new_id()), "service": "robot"},
    ],
)
def test_a_client_makes_no_key_that_does_more(owner: httpx2.Client, more: dict[str, object]) -> None:
    answer = owner.post("/api-keys", json={"name": "more", **more})

    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")


def test_a_key_with_few_scopes_makes_no_key_with_more(served: Api) -> None:
    few = served.client("someone", scopes=["tasks:read", "keys:write"])

    assert few.post("/api-keys", json={"name": "x", "scopes": ["tasks:write"]}).status_code == 403
    assert make(few)["scopes"] == ["tasks:read"]


def test_a_key_that_expires_makes_no_key_that_lives_longer(served: Api, module_settings: Settings) -> None:
    end = datetime.now(UTC) + timedelta(days=1)
    short = served.client_with(create_key(module_settings, "someone", "client", ALL_OF_A_CLIENT, None, end).key)

    later = (end + timedelta(days=1)).isoformat()
    assert short.post("/api-keys", json={"name": "x", "expires_at": later}).status_code == 403
    assert make(short)["expires_at"] is not None


def test_a_key_of_a_network_makes_no_key_for_others(served: Api, module_settings: Settings) -> None:
    key = create_key(module_settings, "someone", scopes=ALL_OF_A_CLIENT, networks=["127.0.0.0/24"]).key
    bound = served.client_with(key)

    assert bound.post("/api-keys", json={"name": "x", "networks": ["127.0.0.0/8"]}).status_code == 403
    assert bound.post("/api-keys", json={"name": "x", "networks": ["::1/128"]}).status_code == 403
    assert make(bound, networks=["127.0.0.1/32"])["networks"] == ["127.0.0.1/32"]
    assert make(bound)["networks"] == ["127.0.0.0/24"]


def test_a_key_is_accepted_from_its_networks_only(
    served: Api, owner: httpx2.Client, manual_worker: ManualWorker
) -> None:
    elsewhere = make(owner, networks=["192.0.2.0/24", "2001:db8::/32"])
    here = make(owner, networks=["192.0.2.0/24", "127.0.0.1"])

    for path in ("/tasks", f"/tasks/{new_id()}"):
        refused = served.client_with(elsewhere["key"]).get(path)
        assert refused.status_code == 403
        assert "restricted to networks" in refused.json()["detail"]
    assert served.client_with(here["key"]).get("/tasks").status_code == 200
    used = manual_worker.count("SELECT count(last_used_at) FROM api_keys WHERE id = %s", elsewhere["id"])
    assert used == 0


def test_the_day_and_network_of_the_last_use_are_shown(
    served: Api, owner: httpx2.Client, eventually: Eventually
) -> None:
    made = make(owner)
    assert (made["last_used_on"], made["last_used_network"]) == (None, None)

    served.client_with(made["key"]).get("/tasks")

    shown = eventually(lambda: (key := owner.get(f"/api-keys/{made['id']}").json())["last_used_on"] and key)
    assert shown["last_used_on"] in {f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%d}" for hours in (0, 1)}
    assert shown["last_used_network"] == "127.0.0.0/24"


def test_a_rotated_key_is_accepted_for_the_overlap(served: Api, owner: httpx2.Client) -> None:
    first = make(owner, scopes=["tasks:read"], networks=["127.0.0.0/8"])

    answer = owner.post(f"/api-keys/{first['id']}/rotate", json={"overlap_seconds": 600})
    second = answer.json()

    assert answer.status_code == 201
    assert {name: second[name] for name in ("name", "scopes", "networks", "owner", "role")} == {
        name: first[name] for name in ("name", "scopes", "networks", "owner", "role")
    }
    assert (second["replaces"], second["expires_at"]) == (first["id"], None)
    old = owner.get(f"/api-keys/{first['id']}").json()
    left = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    for key in (first, second):
        assert served.client_with(key["key"]).get("/tasks").status_code == 200


def test_a_key_rotated_without_overlap_is_refused(served: Api, owner: httpx2.Client) -> None:
    first = make(owner)

    assert owner.post(f"/api-keys/{first['id']}/rotate", json={"overlap_seconds": 0}).status_code == 201

    assert served.client_with(first["key"]).get("/tasks").status_code == 401
    assert owner.post(f"/api-keys/{first['id']}/rotate").json()["type"] == "/problems/conflict"


def test_rotating_shows_no_secret_that_does_more_than_the_one_who_asks(
    served: Api, module_settings: Settings, boss: httpx2.Client
) -> None:
    strong = create_key(module_settings, "someone", "admin", organization="someone")
    few = served.client("someone", scopes=["tasks:read", "keys:write"])

    assert few.post(f"/api-keys/{strong.id}/rotate").status_code == 403
    assert boss.post(f"/api-keys/{strong.id}/rotate").status_code == 403
    assert boss.delete(f"/api-keys/{strong.id}").status_code == 403
    assert few.delete(f"/api-keys/{strong.id}").status_code == 204


def test_a_revoked_key_is_refused_within_a_second_and_stays_listed(
    served: Api, owner: httpx2.Client, eventually: Eventually
) -> None:
    made = make(owner)
    client = served.client_with(made["key"])
    assert client.get("/tasks").status_code == 200

    assert owner.delete(f"/api-keys/{made['id']}").status_code == 204
    assert owner.delete(f"/api-keys/{made['id']}").status_code == 204

    eventually(lambda: client.get("/tasks").status_code == 401)
    assert owner.get(f"/api-keys/{made['id']}").json()["revoked_at"] is not None


def test_no_request_is_accepted_a_second_after_the_revocation_of_its_key(served: Api, owner: httpx2.Client) -> None:
    made = make(owner)
    answers: list[tuple[float, int]] = []

    async def ask_until_refused(client: httpx2.AsyncClient) -> None:
        status = count = 0
        while status != 401 or count < 15:
            start = time.monotonic()
            # Refused for its content type, once the key is accepted: the cheapest answer.
            status = (await client.post("/tasks")).status_code
            answers.append((start, status))
            count += 1

    async def revoke_meanwhile() -> float:
        headers = {"Authorization": f"Bearer {made['key']}"}
        async with httpx2.AsyncClient(base_url=served.url, headers=headers, timeout=70) as client:
            asking = [asyncio.create_task(ask_until_refused(client)) for _ in range(20)]
            while len(answers) < 200:
                await asyncio.wait(asking, timeout=0.01)
            refused = await asyncio.to_thread(owner.delete, f"/api-keys/{made['id']}")
            revoked_at = time.monotonic()
            assert refused.status_code == 204
            await asyncio.gather(*asking)
            return revoked_at

    revoked_at = asyncio.run(asyncio.wait_for(revoke_meanwhile(), PATIENCE_SECONDS))

    assert len(answers) >= 300
    assert {status for _, status in answers} == {415, 401}
    assert {status for start, status in answers if start > revoked_at + 1} <= {401}


def test_an_admin_makes_and_lists_keys_of_services_of_the_organization(
    served: Api, boss: httpx2.Client, owner: httpx2.Client, stranger: httpx2.Client
) -> None:
    made = make(boss, service="robot", role="viewer")
    again = make(boss, service="robot", role="operator")

    assert made["owner"] == again["owner"] != make(boss)["owner"]
    assert (made["role"], made["scopes"]) == ("viewer", ["tasks:read"])
    assert served.client_with(made["key"]).post("/emails", json={}).status_code == 403
    of_robot = boss.get("/api-keys", params={"owner": made["owner"]["id"]}).json()["items"]
    assert {key["id"] for key in of_robot} == {made["id"], again["id"]}
    assert owner.get("/api-keys", params={"owner": made["owner"]["id"]}).json()["items"] == []
    for key in boss.get("/api-keys?limit=200").json()["items"]:
        assert key["organization_id"] == made["organization_id"]
    assert owner.get(f"/api-keys/{made['id']}").status_code == 404


def test_keys_of_another_organization_are_not_found(served: Api, boss: httpx2.Client, stranger: httpx2.Client) -> None:
    foreign = served.key("stranger")

    for method, path in (
        ("GET", f"/api-keys/{foreign.id}"),
        ("DELETE", f"/api-keys/{foreign.id}"),
        ("POST", f"/api-keys/{foreign.id}/rotate"),
    ):
        theirs = boss.request(method, path)
        nothing = boss.request(method, path.replace(str(foreign.id), str(new_id())))
        assert (theirs.status_code, theirs.json()["detail"]) == (404, nothing.json()["detail"])
    refused = boss.post(
        "/api-keys", json={"name": "x", "service": "robot", "organization_id": str(foreign.organization_id)}
    )
    assert refused.status_code == 404
    assert stranger.get("/tasks").status_code == 200


def test_a_platform_admin_makes_keys_for_any_organization(served: Api, admin: httpx2.Client) -> None:
    there = served.key("stranger").organization_id

    made = make(admin, service="first admin", organization_id=str(there), role="admin", scopes=list(SCOPES))

    assert (made["organization_id"], made["role"], made["platform_role"]) == (str(there), "admin", None)
    assert make(served.client_with(made["key"]), service="importer")["organization_id"] == str(there)
    operator = make(admin, platform_role="operator", role="operator", scopes=["tasks:read"])
    assert served.client_with(operator["key"]).get("/queues").status_code == 200


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "a\u0000b"}, "/name"),
        ({"name": "x", "role": "owner"}, "/role"),
        ({"name": "x", "scopes": ["everything"]}, "/scopes/0"),
        ({"name": "x", "scopes": ["tasks:read", "admin"]}, "/scopes/1"),
        ({"name": "x", "networks": ["127.0.0.1", "nowhere"]}, "/networks/1"),
        ({"name": "x", "networks": []}, "/networks"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"name": "x", "secret": "mine"}, "/secret"),
    ],
)
def test_an_invalid_key_is_refused(
    owner: httpx2.Client, errors_of: ErrorsOf, fields: dict[str, object], pointer: str
) -> None:
    assert list(errors_of(owner.post("/api-keys", json=fields))) == [pointer]


def test_what_happens_to_keys_is_audited(owner: httpx2.Client, manual_worker: ManualWorker, served: Api) -> None:
    first = make(owner)
    second = owner.post(f"/api-keys/{first['id']}/rotate").json()
    owner.delete(f"/api-keys/{second['id']}")

    entries = manual_worker.connection.execute(
        "SELECT action FROM audit_entries WHERE resource_id = ANY (%s) ORDER BY id", [[first["id"], second["id"]]]
    ).fetchall()

    assert [action for (action,) in entries] == ["api_key.created", "api_key.rotated", "api_key.revoked"]
