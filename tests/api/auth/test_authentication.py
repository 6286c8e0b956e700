"""Credentials, scopes and roles. Resources of another organization are answered as if they did not exist."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from api.auth.authentication import KEY_CACHE_SECONDS, Authenticator
from api.auth.signing import TokenSigner
from shared.api_keys import list_keys, revoke_key
from shared.database.connections import make_async_engine
from shared.settings import Settings
from shared.stored_secrets import SecretCipher
from tests.api.conftest import ManualWorker, SendRaw, Submit
from tests.conftest import Api, Eventually

EMAIL = {"to": ["ada@example.com"], "text": "hello"}
SOME = "0199c0de-0000-7000-8000-000000000001"
PRIVATE_ROUTES = [
    ("GET", "/tasks"),
    ("POST", "/tasks"),
    ("POST", "/tasks/batch"),
    ("GET", f"/tasks/{SOME}"),
    ("GET", "/tasks/no-uuid"),
    ("DELETE", f"/tasks/{SOME}"),
    ("POST", f"/tasks/{SOME}/cancel"),
    ("POST", f"/tasks/{SOME}/retry"),
    ("GET", f"/batches/{SOME}"),
    ("POST", f"/batches/{SOME}/cancel"),
    ("POST", "/reports"),
    ("POST", "/emails"),
    ("GET", "/kinds"),
    ("GET", "/metrics"),
    ("POST", "/files"),
    ("GET", "/files"),
    ("GET", f"/files/{SOME}"),
    ("GET", f"/files/{SOME}/content"),
    ("DELETE", f"/files/{SOME}"),
]
NEEDED = {
    ("GET", "/tasks"): "tasks:read",
    ("POST", "/tasks"): "tasks:write",
    ("POST", "/tasks/batch"): "tasks:write",
    ("GET", f"/tasks/{SOME}"): "tasks:read",
    ("DELETE", f"/tasks/{SOME}"): "tasks:write",
    ("POST", f"/tasks/{SOME}/cancel"): "tasks:write",
    ("POST", f"/tasks/{SOME}/retry"): "tasks:write",
    ("GET", f"/batches/{SOME}"): "tasks:read",
    ("POST", f"/batches/{SOME}/cancel"): "tasks:write",
    ("POST", "/reports"): "tasks:write",
    ("POST", "/emails"): "tasks:write",
    ("GET", "/kinds"): "tasks:read",
    ("GET", "/metrics"): "tasks:read",
    ("POST", "/files"): "tasks:write files:write",
    ("GET", "/files"): "files:read",
    ("GET", f"/files/{SOME}"): "files:read",
    ("GET", f"/files/{SOME}/content"): "files:read",
    ("DELETE", f"/files/{SOME}"): "files:write",
}


@pytest.fixture(scope="module")
def scopeless(served: Api) -> httpx2.Client:
    client: httpx2.Client = served.client("someone", scopes=[])
    return client


@pytest.mark.parametrize(("method", "path"), PRIVATE_ROUTES)
def test_a_route_is_closed_without_credentials(nobody: httpx2.Client, method: str, path: str) -> None:
    answer = nobody.request(method, path)

    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_a_route_is_closed_without_its_scope(scopeless: httpx2.Client, method: str, path: str) -> None:
    answer = scopeless.request(method, path)

    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
    scope = NEEDED[method, path]
    assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_a_route_opens_with_just_its_scope(served: Api, method: str, path: str) -> None:
    role = "operator" if path == "/metrics" else "client"
    client = served.client("someone", role, scopes=NEEDED[method, path].split())

    assert client.request(method, path).status_code in {200, 202, 404, 415}


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Bearer tm_000000000000_wrong",
        "Basic dTpw",
        "Bearer tm_\x00",
        "Bearer " + "x" * 5000,
        "Bearer tm_äöüäöüäöüäöü_x",
        "Bearer tm_000000000000_ü",
    ],
)
@pytest.mark.parametrize("path", ["/tasks", f"/tasks/{SOME}"])
def test_bad_credentials_are_refused(send_raw: SendRaw, authorization: str, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n"

    answer = send_raw(request.encode("latin-1"))

    expected = b"HTTP/1.1 400 " if "\x00" in authorization else b"HTTP/1.1 401 "
    assert answer.startswith(expected)
    if expected.endswith(b"401 "):
        assert b"\r\nwww-authenticate: Bearer" in answer


def test_a_key_is_accepted_in_either_header(served: Api, nobody: httpx2.Client) -> None:
    key = served.key("someone").key

    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer {key}"},
        {"X-API-Key": key},
        {"Authorization": f"Bearer {key}", "X-API-Key": key},
        {"Authorization": "Basic dTpw", "X-API-Key": key},
    ):
        assert nobody.get("/tasks", headers=headers).status_code == 200
        assert nobody.get(f"/tasks/{SOME}", headers=headers).status_code == 404


def test_a_refused_bearer_token_is_not_rescued_by_another_header(served: Api, nobody: httpx2.Client) -> None:
    key = served.key("someone").key

    for path in ("/tasks", f"/tasks/{SOME}"):
        both = nobody.get(path, headers={"Authorization": "Bearer tm_000000000000_wrong", "X-API-Key": key})
        twice = nobody.get(path, headers=[("X-API-Key", key), ("X-API-Key", "tm_000000000000_wrong")])

        assert (both.status_code, twice.status_code) == (401, 401)


def test_a_wrong_secret_behind_a_right_prefix_is_refused(served: Api) -> None:
    key = served.key("someone").key

    assert served.client_with(key[:-1] + ("A" if key[-1] != "A" else "B")).get("/tasks").status_code == 401


def test_a_revoked_key_is_refused_within_a_second(
    served: Api, module_settings: Settings, eventually: Eventually
) -> None:
    key = served.key("someone")
    client = served.client_with(key.key)
    assert client.get("/tasks").status_code == client.get("/kinds").status_code == 200

    revoke_key(module_settings, str(key.id))

    assert KEY_CACHE_SECONDS <= 1
    eventually(lambda: client.get("/tasks").status_code == 401)
    assert client.get(f"/tasks/{SOME}").status_code == 401
    assert client.post("/emails", json=EMAIL).status_code == 401


def test_an_expired_key_is_refused(served: Api, manual_worker: ManualWorker) -> None:
    past, soon = served.key("someone"), served.key("someone")
    manual_worker.connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", [past.id])
    manual_worker.connection.execute(
        "UPDATE api_keys SET expires_at = now() + interval '1 hour' WHERE id = %s", [soon.id]
    )

    assert served.client_with(past.key).get("/tasks").status_code == 401
    assert served.client_with(soon.key).get("/tasks").status_code == 200


def test_the_last_use_of_a_key_is_stored_once_a_minute(
    served: Api, module_settings: Settings, manual_worker: ManualWorker, eventually: Eventually
) -> None:
    key = served.key("someone")

    def find_last_use() -> datetime | None:
        return next(listed.last_used_at for listed in list_keys(module_settings) if listed.id == key.id)

    assert find_last_use() is None
    served.client_with(key.key[:-1] + "-").get("/tasks")
    assert served.client_with(key.key).get("/tasks").status_code == 200
    first = eventually(find_last_use)
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)

    manual_worker.connection.execute(
        "UPDATE api_keys SET last_used_at = now() - interval '59 s' WHERE id = %s", [key.id]
    )
    second = find_last_use()

    async def use() -> None:
        engine = make_async_engine(module_settings, "test")
        signer = TokenSigner(module_settings, engine, SecretCipher(module_settings))
        authenticator = Authenticator(engine.execution_options(isolation_level="AUTOCOMMIT"), signer)
        await authenticator.caller(f"Bearer {key.key}", None)
        await authenticator.close()
        await engine.dispose()

    asyncio.run(use())
    assert find_last_use() == second
    manual_worker.connection.execute(
        "UPDATE api_keys SET last_used_at = now() - interval '61 s' WHERE id = %s", [key.id]
    )
    asyncio.run(use())
    last = find_last_use()
    assert last is not None and second is not None and last > second


def test_resources_of_another_organization_are_not_found(
    client: httpx2.Client, stranger: httpx2.Client, email: Submit
) -> None:
    task_id = email()
    batch_id = client.post("/tasks/batch", json={"tasks": [{"kind": "email.send", "params": EMAIL}]}).json()["batch_id"]
    file_id = client.post("/files", files={"file": ("a.txt", b"hello")}).json()["params"]["file_id"]

    for method, path in [
        ("GET", f"/tasks/{task_id}"),
        ("DELETE", f"/tasks/{task_id}"),
        ("POST", f"/tasks/{task_id}/cancel"),
        ("POST", f"/tasks/{task_id}/retry"),
        ("GET", f"/batches/{batch_id}"),
        ("POST", f"/batches/{batch_id}/cancel"),
        ("GET", f"/files/{file_id}"),
        ("GET", f"/files/{file_id}/content"),
        ("DELETE", f"/files/{file_id}"),
    ]:
        theirs = stranger.request(method, path)
        nothing = stranger.request(method, path.replace(task_id, str(SOME)))
        assert (theirs.status_code, theirs.json()["type"]) == (404, "/problems/not-found")
        assert theirs.json()["detail"] == nothing.json()["detail"]
    attached = stranger.post("/emails", json={**EMAIL, "attachments": [{"file_id": file_id}]})
    assert attached.json()["errors"][0]["pointer"] == "/attachments/0/file_id"
    assert task_id not in stranger.get("/tasks?limit=200").text
    assert stranger.get("/tasks", params={"batch_id": batch_id}).json()["items"] == []
    assert stranger.get("/tasks", params={"ids": task_id}).json() == {"items": [], "missing": [task_id]}
    assert client.get(f"/tasks/{task_id}").json()["status"] == "queued"


def test_another_key_of_the_same_caller_sees_the_same(served: Api, client: httpx2.Client, email: Submit) -> None:
    task_id = email()

    assert served.client("someone").get(f"/tasks/{task_id}").status_code == 200


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_operators_and_admins_see_cancel_and_retry_everything(
    served: Api, client: httpx2.Client, email: Submit, role: str
) -> None:
    privileged = served.client(role, role)
    task_id = email()
    batch_id = client.post("/tasks/batch", json={"tasks": [{"kind": "email.send", "params": EMAIL}]}).json()["batch_id"]

    assert privileged.get(f"/tasks/{task_id}").status_code == 200
    assert task_id in privileged.get("/tasks?limit=200").text
    assert privileged.get("/tasks", params={"ids": task_id}).json()["missing"] == []
    assert privileged.post(f"/tasks/{task_id}/cancel").json()["status"] == "cancelled"
    assert privileged.post(f"/tasks/{task_id}/retry").json()["status"] == "queued"
    assert privileged.get(f"/batches/{batch_id}").json()["total"] == 1
    assert privileged.post(f"/batches/{batch_id}/cancel").json()["counts"] == {"cancelled": 1}


def test_only_an_admin_deletes_what_belongs_to_others(
    served: Api, client: httpx2.Client, operator: httpx2.Client, admin: httpx2.Client, email: Submit
) -> None:
    upload = {"file": ("a.txt", b"some words", "text/plain")}
    file_id = client.post("/files", files=upload).json()["params"]["file_id"]
    theirs = operator.post("/files", files=upload).json()
    for task_id in (email_id := email(), theirs["id"]):
        admin.post(f"/tasks/{task_id}/cancel")
    for task in client.get("/tasks", params={"status": "queued"}).json()["items"]:
        client.post(f"/tasks/{task['id']}/cancel")
    paths = [f"/tasks/{email_id}", f"/files/{file_id}"]

    for path in paths:
        answer = operator.delete(path)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
        assert operator.get(path).status_code == 200
    assert [admin.delete(path).status_code for path in paths] == [204, 204]
    assert operator.delete(f"/tasks/{theirs['id']}").status_code == 204
    assert operator.delete(f"/files/{theirs['params']['file_id']}").status_code == 204


def test_only_operators_and_admins_may_ping(
    client: httpx2.Client, operator: httpx2.Client, admin: httpx2.Client
) -> None:
    ping = {"kind": "platform.ping"}

    alone = client.post("/tasks", json=ping)
    in_batch = client.post("/tasks/batch", json={"tasks": [{"kind": "email.send", "params": EMAIL}, ping]})
    validated = client.post("/tasks?validate_only=true", json=ping)

    for answer in (alone, in_batch, validated):
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
    assert operator.post("/tasks", json=ping).status_code == admin.post("/tasks", json=ping).status_code == 202


@pytest.mark.parametrize("path", ["/health", "/problems/validation", "/openapi.json", "/docs"])
def test_some_routes_are_open_to_all(nobody: httpx2.Client, path: str) -> None:
    answer = nobody.get(path, headers={"Authorization": "Bearer nonsense"})

    assert answer.status_code == 200
    assert "x-ratelimit-limit" not in answer.headers
