"""`/files` over real HTTP, on a real Postgres and a folder."""

import hashlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest

from cli.local_stack.postgres import PostgresServer
from shared.api_keys import create_key
from shared.errors import StorageFull
from shared.identifiers import new_id
from shared.queries import hot_tasks
from shared.settings import Settings
from shared.storage.local_objects import LocalObjects
from shared.storage.object_store import ObjectWriter, new_object_key
from tests.claims import claim_tasks
from tests.conftest import ServeApi, new_database, wait_until_true

MAX_UPLOAD = 8 << 20
DATA = Path(__file__).parents[2] / "data"
ROCKET = DATA / "rocket.jpg"
VARIANTS = {"variants": [{"name": "small", "width": 64, "format": "jpeg"}]}


@pytest.fixture(scope="module")
def settings(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with one database and one storage for all tests of this file. Each test checks only what it has stored."""
    with new_database(postgres_server) as url:
        yield Settings(
            database_url=url,
            storage_url=f"file://{tmp_path_factory.mktemp('files')}/objects",
            broker_url="redis://127.0.0.1:1/0",
            max_upload_bytes=MAX_UPLOAD,
            rate_limit_client=100_000,
        )


@pytest.fixture(scope="module")
def base_url(settings: Settings, serve: ServeApi) -> Iterator[str]:
    with serve(settings) as served:
        yield served.url


@pytest.fixture(scope="module")
def keys(settings: Settings) -> dict[str, str]:
    return {
        "client": create_key(settings, "one").key,
        "stranger": create_key(settings, "two").key,
        "reader": create_key(settings, "one", scopes=["files:read", "tasks:read"]).key,
        "writer": create_key(settings, "one", scopes=["files:write"]).key,
        "admin": create_key(settings, "boss", "admin").key,
    }


def _client(base_url: str, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=20)


@pytest.fixture(scope="module")
def client(base_url: str, keys: dict[str, str]) -> Iterator[httpx2.Client]:
    with _client(base_url, keys["client"]) as made:
        yield made


@pytest.fixture(scope="module")
def stranger(base_url: str, keys: dict[str, str]) -> Iterator[httpx2.Client]:
    with _client(base_url, keys["stranger"]) as made:
        yield made


@pytest.fixture(scope="module")
def admin(base_url: str, keys: dict[str, str]) -> Iterator[httpx2.Client]:
    with _client(base_url, keys["admin"]) as made:
        yield made


@pytest.fixture(scope="module")
def database(settings: Settings, base_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def objects(settings: Settings) -> "Objects":
    return Objects(Path(settings.storage_url.removeprefix("file://")))


class Objects:
    """The objects in the storage, and those that were added since a test began."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._before = self._list()

    def _list(self) -> set[Path]:
        return {path for path in self._root.rglob("*") if path.is_file()}

    def new(self) -> set[Path]:
        return self._list() - self._before

    def settle(self, count: int) -> None:
        """Wait until so many objects were added."""
        wait_until_true(lambda: len(self.new()) == count)


def upload(
    client: httpx2.Client,
    content: bytes = b"some text\n",
    name: str = "a.txt",
    headers: dict[str, str] | None = None,
    query: str = "",
    **fields: object,
) -> httpx2.Response:
    data = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    return client.post("/files" + query, data=data, files={"file": (name, content)}, headers=headers or {})


def upload_file_id(
    client: httpx2.Client, content: bytes = b"some text\n", name: str = "a.txt", **fields: object
) -> str:
    answer = upload(client, content, name, **fields)
    assert answer.status_code == 202, answer.text
    file_id: str = answer.json()["params"]["file_id"]
    return file_id


def cancel_readers(database: psycopg.Connection[Any], client: httpx2.Client, file_id: str) -> None:
    for (task_id,) in database.execute("SELECT task_id FROM task_files WHERE file_id = %s", [file_id]).fetchall():
        client.post(f"/tasks/{task_id}/cancel")


def count(database: psycopg.Connection[Any], table: str) -> int:
    row = database.execute(f"SELECT count(*) FROM {table}").fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def only_error(answer: httpx2.Response) -> tuple[str, str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    return error["pointer"], error["code"]


def test_an_upload_becomes_a_file_and_a_task_that_inspects_it(client: httpx2.Client) -> None:
    content = ROCKET.read_bytes()
    answer = upload(client, content, "rocket.jpg")
    assert answer.status_code == 202
    task = answer.json()
    assert answer.headers["location"] == f"/tasks/{task['id']}"
    assert "retry-after" in answer.headers
    assert (task["kind"], task["status"]) == ("files.inspect", "queued")
    file = client.get(f"/files/{task['params']['file_id']}").json()
    assert UUID(file.pop("id")).version == 7
    assert file.pop("created_at") < file.pop("expires_at")
    assert file == {
        "name": "rocket.jpg",
        "media_type": "image/jpeg",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "origin": "upload",
        "task_id": None,
    }
    assert client.get(task["links"]["self"]).json()["params"] == task["params"]


def test_a_task_may_be_named_with_its_params_and_options(client: httpx2.Client) -> None:
    task = {"kind": "files.make_images", "params": VARIANTS, "priority": 7, "tags": ["x"], "keep_for": 5}
    answer = upload(client, ROCKET.read_bytes(), "r.jpg", task=task)
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert (made["kind"], made["priority"], made["tags"]) == ("files.make_images", 7, ["x"])
    assert made["params"]["variants"][0]["name"] == "small"


def test_keep_for_of_the_form_and_not_of_the_task_sets_when_an_upload_expires(
    client: httpx2.Client, database: psycopg.Connection[Any]
) -> None:
    kept = {}
    for fields in ({}, {"task": {"kind": "files.inspect", "keep_for": 60}}, {"keep_for": "3600"}):
        file_id = upload_file_id(client, **fields)
        row = database.execute("SELECT expires_at - created_at FROM files WHERE id = %s", [file_id]).fetchone()
        assert row is not None
        kept[str(fields)] = row[0].total_seconds()
    assert list(kept.values()) == [7 * 86_400, 7 * 86_400, 3600]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"task": "{"}, ("form:task", "json_invalid")),
        ({"task": "[]"}, ("form:task", "dict_type")),
        ({"task": {}}, ("form:task/kind", "missing")),
        ({"task": '{"kind": "files.inspect", "x": ' + "[" * 300 + "]" * 300 + "}"}, ("form:task", "json_invalid")),
        ({"task": {"kind": "files.nope"}}, ("form:task/kind", "unknown_kind")),
        ({"task": {"kind": "reports.run"}}, ("form:task/kind", "takes_no_file")),
        ({"task": {"kind": "files.inspect", "typo": 1}}, ("form:task/typo", "extra_forbidden")),
        ({"task": {"kind": "files.inspect", "params": []}}, ("form:task/params", "model_type")),
        (
            {"task": {"kind": "files.inspect", "params": {"file_id": str(new_id())}}},
            ("form:task/params/file_id", "filled_in"),
        ),
        (
            {
                "task": {
                    "kind": "files.make_images",
                    "params": {"variants": [{"name": "x", "width": -1, "format": "png"}]},
                }
            },
            ("form:task/params/variants/0/width", "greater_than_equal"),
        ),
        ({"task": {"kind": "files.inspect", "unique_for": 60}}, ("form:task/unique_for", "not_with_an_upload")),
        ({"keep_for": "soon"}, ("form:keep_for", "out_of_range")),
        ({"keep_for": "-1"}, ("form:keep_for", "out_of_range")),
        ({"keep_for": "31536001"}, ("form:keep_for", "out_of_range")),
        ({"other": "1"}, ("form:other", "extra_forbidden")),
    ],
)
@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_a_bad_field_is_refused_at_its_pointer_and_nothing_is_kept(
    client: httpx2.Client,
    database: psycopg.Connection[Any],
    objects: Objects,
    fields: dict[str, Any],
    expected: tuple[str, str],
    query: str,
) -> None:
    before = count(database, "tasks"), count(database, "files")
    assert only_error(upload(client, query=query, **fields)) == expected
    assert (count(database, "tasks"), count(database, "files")) == before
    objects.settle(0)


def test_a_bad_field_behind_the_file_is_refused_too(client: httpx2.Client, objects: Objects) -> None:
    parts = [("file", ("a.txt", b"text")), ("task", (None, '{"kind": "x"}'))]
    assert only_error(client.post("/files", files=parts)) == ("form:task/kind", "unknown_kind")
    objects.settle(0)


def test_a_malformed_trace_is_left_out_and_a_good_one_kept(
    client: httpx2.Client, database: psycopg.Connection[Any]
) -> None:
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for given, kept in ((good, good), ("x" * 3000, None)):
        task = upload(client, headers={"traceparent": given}).json()
        assert database.execute("SELECT traceparent FROM tasks WHERE id = %s", [task["id"]]).fetchone() == (kept,)


def test_two_idempotency_keys_in_one_upload_are_refused(client: httpx2.Client, objects: Objects) -> None:
    keys = [(b"idempotency-key", b"a"), (b"idempotency-key", b"b")]
    answer = client.post("/files", files={"file": ("a.txt", b"text")}, headers=keys)
    assert only_error(answer) == ("header:Idempotency-Key", "invalid_key")
    objects.settle(0)


def test_a_missing_or_empty_file_is_refused(client: httpx2.Client, objects: Objects) -> None:
    assert only_error(client.post("/files", files={"keep_for": (None, "60")})) == ("form:file", "missing")
    assert only_error(upload(client, b"")) == ("form:file", "empty_file")
    objects.settle(0)


def test_bytes_that_the_kind_cannot_read_are_refused_and_not_kept(client: httpx2.Client, objects: Objects) -> None:
    task = {"kind": "files.make_images", "params": VARIANTS}
    answer = upload(client, b"%PDF-1.7\n1 0 obj", "picture.jpg", task=task)
    assert answer.status_code == 415
    assert answer.json()["type"] == "/problems/unsupported-media-type"
    objects.settle(0)
    assert upload(client, b"%PDF-1.7\n1 0 obj", "p.jpg", query="?validate_only=true", task=task).status_code == 415


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_another_kind_of_body_is_unsupported(client: httpx2.Client, content_type: str) -> None:
    assert client.post("/files", content=b"{}", headers={"Content-Type": content_type}).status_code == 415


def test_validating_stores_nothing_and_needs_no_file(
    client: httpx2.Client, database: psycopg.Connection[Any], objects: Objects
) -> None:
    before = count(database, "tasks"), count(database, "files")
    task = json.dumps({"kind": "files.make_images", "params": VARIANTS})
    for parts in ({"task": (None, task)}, {"task": (None, task), "file": ("r.jpg", ROCKET.read_bytes())}):
        answer = client.post("/files?validate_only=true", files=parts)
        assert (answer.status_code, answer.json()) == (200, {"valid": True})
    assert (count(database, "tasks"), count(database, "files")) == before
    objects.settle(0)


def test_an_unknown_query_name_is_refused(client: httpx2.Client) -> None:
    assert only_error(upload(client, query="?validate=true")) == ("query:validate", "extra_forbidden")


def test_an_upload_needs_both_scopes(base_url: str, keys: dict[str, str]) -> None:
    for name in ("reader", "writer"):
        with _client(base_url, keys[name]) as limited:
            answer = upload(limited)
            assert answer.status_code == 403
            assert 'scope="tasks:write files:write"' in answer.headers["www-authenticate"]
    assert httpx2.post(f"{base_url}/files", files={"file": b"x"}).status_code == 401


def test_a_file_name_of_an_attacker_is_made_safe(client: httpx2.Client, objects: Objects) -> None:
    for name in ("../../../etc/cron.d/x", "x\u202egpj.exe", "n" * 400 + ".txt"):
        shown = client.get(f"/files/{upload_file_id(client, name=name)}").json()["name"]
        assert shown in ("x", "xgpj.exe") or (len(shown) <= 150 and shown.endswith("nn.txt"))
    assert all(path.name.isalnum() for path in objects.new())


def send_raw(base_url: str, *pieces: bytes) -> bytes:
    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            received = b""
            while data := connection.recv(65_536):
                received += data
        except ConnectionError:
            pass
        return received


def head(keys: dict[str, str], *headers: str) -> bytes:
    lines = ["POST /files HTTP/1.1", "Host: x", f"Authorization: Bearer {keys['client']}"]
    lines += ["Content-Type: multipart/form-data; boundary=BB", *headers, "", ""]
    return "\r\n".join(lines).encode()


FILE_PART = b'--BB\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'


def test_a_declared_body_that_is_too_large_is_refused_before_it_is_sent(base_url: str, keys: dict[str, str]) -> None:
    answer = send_raw(base_url, head(keys, f"Content-Length: {MAX_UPLOAD * 4}"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"/problems/too-large" in answer
    assert b"connection: close" in answer.lower()


def test_a_chunked_body_that_is_too_large_is_refused_without_its_rest(
    base_url: str, keys: dict[str, str], objects: Objects
) -> None:
    megabyte = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    start = b"%x\r\n" % len(FILE_PART) + FILE_PART + b"\r\n"
    answer = send_raw(base_url, head(keys, "Transfer-Encoding: chunked"), start, *[megabyte] * 9)
    assert answer.startswith(b"HTTP/1.1 413 ")
    objects.settle(0)


def test_a_client_that_sends_too_much_at_once_can_read_the_refusal(client: httpx2.Client, objects: Objects) -> None:
    answer = upload(client, b"x" * (MAX_UPLOAD * 5))
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")
    objects.settle(0)


def test_a_bad_task_is_refused_before_the_file_arrives(base_url: str, keys: dict[str, str], objects: Objects) -> None:
    task = b'--BB\r\nContent-Disposition: form-data; name="task"\r\n\r\n{"kind": "nope"}\r\n'
    answer = send_raw(base_url, head(keys, "Content-Length: 5000000"), task + FILE_PART)
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"form:task/kind" in answer
    objects.settle(0)


def test_a_client_that_hangs_up_in_the_middle_leaves_neither_object_nor_task(
    base_url: str, keys: dict[str, str], objects: Objects, database: psycopg.Connection[Any]
) -> None:
    before = count(database, "tasks"), count(database, "files")
    key = "Idempotency-Key: hung-up"

    def count_keys() -> int:
        return count(database, "idempotency_keys WHERE key = 'hung-up'")

    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head(keys, key, "Content-Length: 6000000") + FILE_PART + b"x" * 3_000_000)
        wait_until_true(lambda: count_keys() == 1)
    wait_until_true(lambda: count_keys() == 0)
    objects.settle(0)
    assert (count(database, "tasks"), count(database, "files")) == before


def test_the_same_upload_under_the_same_key_is_stored_once(
    client: httpx2.Client, database: psycopg.Connection[Any], objects: Objects
) -> None:
    headers = {"Idempotency-Key": "upload-1"}
    first = upload(client, b"once\n", headers=headers, keep_for="60")
    database.execute("UPDATE tasks SET priority = 1 WHERE id = %s", [first.json()["id"]])
    again = upload(client, b"once\n", "other-name.txt", headers=headers, keep_for="60")
    assert (first.status_code, again.status_code) == (202, 202)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {**first.json(), "priority": 1}
    objects.settle(1)


def test_a_key_used_for_another_file_or_other_fields_is_refused(client: httpx2.Client, objects: Objects) -> None:
    headers = {"Idempotency-Key": "upload-2"}
    assert upload(client, b"one\n", headers=headers).status_code == 202
    for answer in (upload(client, b"two\n", headers=headers), upload(client, b"one\n", headers=headers, keep_for="9")):
        assert answer.status_code == 422
        assert answer.json()["type"] == "/problems/idempotency-key-reused"
    objects.settle(1)


def test_a_key_in_flight_is_a_conflict_and_free_again_when_its_upload_fails(
    base_url: str, keys: dict[str, str], client: httpx2.Client, database: psycopg.Connection[Any]
) -> None:
    headers = {"Idempotency-Key": "upload-3"}
    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head(keys, "Idempotency-Key: upload-3", "Content-Length: 100000") + FILE_PART + b"x" * 1000)
        wait_until_true(lambda: count(database, "idempotency_keys WHERE key = 'upload-3'") == 1)
        answer = upload(client, headers=headers)
        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/idempotency-key-in-flight"
        assert int(answer.headers["retry-after"]) >= 1
    wait_until_true(lambda: count(database, "idempotency_keys WHERE key = 'upload-3'") == 0)
    assert upload(client, headers=headers).status_code == 202


def test_a_refused_upload_does_not_use_up_its_key(client: httpx2.Client) -> None:
    headers = {"Idempotency-Key": "upload-4"}
    assert upload(client, b"", headers=headers).status_code == 422
    assert upload(client, headers=headers).status_code == 202


def test_a_key_is_free_again_when_the_reservation_of_a_dead_process_ends(
    client: httpx2.Client, database: psycopg.Connection[Any]
) -> None:
    owner = database.execute("SELECT id FROM callers WHERE name = 'one'").fetchone()
    assert owner is not None
    database.execute(
        "INSERT INTO idempotency_keys (owner_id, key, in_flight_until) VALUES (%s, 'upload-5', now() - interval '1 s')",
        [owner[0]],
    )
    answer = upload(client, headers={"Idempotency-Key": "upload-5"})
    assert answer.status_code == 202
    assert "idempotency-replayed" not in answer.headers


def test_many_at_once_under_one_key_store_one(
    client: httpx2.Client, objects: Objects, database: psycopg.Connection[Any]
) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: upload(client, b"race\n", headers={"Idempotency-Key": "upload-6"}), range(8))
        )
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    objects.settle(1)


def test_a_full_storage_is_507_and_nothing_is_left(
    client: httpx2.Client, objects: Objects, monkeypatch: pytest.MonkeyPatch, database: psycopg.Connection[Any]
) -> None:
    before = count(database, "files")

    really_open = LocalObjects.open_writer

    def open_full(store: LocalObjects, key: str) -> ObjectWriter:
        def write(data: object) -> None:
            raise StorageFull("there is no space left")

        writer = really_open(store, key)
        writer.write = write  # type: ignore[method-assign]
        return writer

    with monkeypatch.context() as patch:
        patch.setattr(LocalObjects, "open_writer", open_full)
        answer = upload(client, os.urandom(2 << 20))
    assert answer.status_code == 507
    assert answer.json()["type"] == "/problems/storage-full"
    assert count(database, "files") == before
    objects.settle(0)


def test_a_database_that_refuses_the_row_leaves_no_object(
    client: httpx2.Client, objects: Objects, database: psycopg.Connection[Any]
) -> None:
    database.execute("ALTER TABLE files ADD CONSTRAINT none_at_all CHECK (name <> 'refuse.me')")
    try:
        answer = upload(client, name="refuse.me", headers={"Idempotency-Key": "upload-7"})
    finally:
        database.execute("ALTER TABLE files DROP CONSTRAINT none_at_all")
    assert answer.status_code == 500
    objects.settle(0)
    assert upload(client, name="refuse.me", headers={"Idempotency-Key": "upload-7"}).status_code == 202


@pytest.mark.parametrize(("fails_in_transaction", "left"), [(False, 0), (True, 1)])
def test_an_object_is_kept_only_when_the_commit_may_have_happened(
    client: httpx2.Client, objects: Objects, monkeypatch: pytest.MonkeyPatch, fails_in_transaction: bool, left: int
) -> None:
    class Connection:
        async def execute(self, *arguments: object) -> None: ...

    async def lose_the_database(
        self: object, tasks: object, request: object, before: Callable[[object], Awaitable[None]]
    ) -> None:
        if fails_in_transaction:
            await before(Connection())
        raise psycopg.OperationalError("the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr("api.submitting.submissions.Submissions.store_together", lose_the_database)
        answer = upload(client)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    objects.settle(left)


def test_files_are_listed_newest_first_in_pages_and_only_ones_own(
    client: httpx2.Client, stranger: httpx2.Client, admin: httpx2.Client
) -> None:
    mine = [upload_file_id(client, f"{n}\n".encode()) for n in range(5)][::-1]
    theirs = upload_file_id(stranger)
    seen: list[str] = []
    cursor = None
    while len(seen) < 5:
        page = client.get("/files", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["items"]) == 2
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen[:5] == mine
    assert theirs not in [item["id"] for item in client.get("/files?limit=200").json()["items"]]
    assert stranger.get("/files").json() == {"items": [stranger.get(f"/files/{theirs}").json()], "next_cursor": None}
    assert {theirs, *mine} <= {item["id"] for item in admin.get("/files?limit=200").json()["items"]}
    assert only_error(client.get("/files?limit=0"))[0] == "query:limit"
    assert only_error(client.get("/files?cursor=zzz"))[0] == "query:cursor"


def test_a_file_of_another_organization_is_not_found(client: httpx2.Client, stranger: httpx2.Client) -> None:
    file_id = upload_file_id(client)
    for answer in (
        stranger.get(f"/files/{file_id}"),
        stranger.get(f"/files/{file_id}/content"),
        stranger.delete(f"/files/{file_id}"),
        client.get(f"/files/{new_id()}"),
    ):
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/not-found"


def test_a_download_is_the_file_with_headers_that_stop_browsers_running_it(client: httpx2.Client) -> None:
    content = b"<html><script>alert(1)</script>" + os.urandom(1_500_000)
    file_id = upload_file_id(client, content, "naïve page.html")
    answer = client.get(f"/files/{file_id}/content")
    assert (answer.status_code, answer.content) == (200, content)
    headers = answer.headers
    assert headers["content-length"] == str(len(content))
    assert headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert headers["content-disposition"].startswith("attachment; ")
    assert "filename*=UTF-8''na%C3%AFve%20page.html" in headers["content-disposition"]
    assert headers["content-security-policy"].startswith("sandbox")
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers["accept-ranges"] == "bytes"
    assert headers["cache-control"] == "private, no-cache"
    assert "charset" not in headers["content-type"]


def test_head_of_a_file_has_the_headers_of_get_and_no_body(client: httpx2.Client) -> None:
    path = f"/files/{upload_file_id(client, b'0123456789')}"
    for suffix in ("", "/content"):
        got, told = client.get(path + suffix), client.head(path + suffix)
        assert (told.status_code, told.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "content-disposition"):
            assert told.headers.get(name) == got.headers.get(name)


@pytest.mark.parametrize(
    ("header", "status", "expected", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=10-", 416, None, "bytes */10"),
    ],
)
def test_a_download_answers_each_form_of_range(
    client: httpx2.Client, header: str, status: int, expected: bytes | None, content_range: str | None
) -> None:
    answer = client.get(f"/files/{upload_file_id(client, b'0123456789')}/content", headers={"Range": header})
    assert answer.status_code == status
    assert answer.headers.get("content-range") == content_range
    if expected is not None:
        assert answer.content == expected
    else:
        assert answer.json()["type"] == "/problems/range-not-satisfiable"


def test_validators_decide_between_304_a_range_and_the_whole_file(client: httpx2.Client) -> None:
    path = f"/files/{upload_file_id(client, b'0123456789')}/content"
    etag = client.get(path).headers["etag"]
    unchanged = client.get(path, headers={"If-None-Match": f'"x", W/{etag}', "Range": "bytes=0-1"})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == etag
    assert client.get(path, headers={"If-None-Match": '"x"'}).status_code == 200
    assert client.get(path, headers=[("If-None-Match", '"x"'), ("If-None-Match", etag)]).status_code == 304
    assert client.get(path, headers=[("Range", "bytes=0-1"), ("Range", "bytes=4-5")]).status_code == 200
    assert client.get(path, headers={"Range": "bytes=0-1", "If-Range": etag}).content == b"01"
    assert client.get(path, headers={"Range": "bytes=0-1", "If-Range": '"x"'}).content == b"0123456789"


def test_an_aborted_download_closes_its_file(client: httpx2.Client, base_url: str, keys: dict[str, str]) -> None:
    path = f"/files/{upload_file_id(client, os.urandom(MAX_UPLOAD))}/content"

    def open_objects() -> int:
        found = 0
        for link in Path("/proc/self/fd").iterdir():
            # Another thread may close a descriptor meanwhile.
            with suppress(FileNotFoundError):
                found += "/objects/" in str(link.readlink())
        return found

    assert open_objects() == 0
    # With a small receive buffer, the kernel cannot hold the whole download, so that the server still has the file open.
    takes_little = httpx2.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)])
    headers = {"Authorization": f"Bearer {keys['client']}"}
    reading = httpx2.Client(base_url=base_url, headers=headers, transport=takes_little)
    with reading as reader, reader.stream("GET", path) as answer:
        # Keep a reference to the iterator: the download is closed when it is garbage-collected.
        pieces = answer.iter_raw()
        next(pieces)
        assert open_objects() == 1
    wait_until_true(lambda: open_objects() == 0)


def test_a_file_that_a_live_task_reads_stays_and_then_goes(
    client: httpx2.Client, stranger: httpx2.Client, database: psycopg.Connection[Any], objects: Objects
) -> None:
    file_id = upload_file_id(client)
    path = f"/files/{file_id}"
    refused = client.delete(path)
    assert refused.status_code == 409
    assert refused.json()["type"] == "/problems/file-in-use"
    assert client.get(path).status_code == 200
    cancel_readers(database, client, file_id)
    assert client.delete(path).status_code == 204
    objects.settle(0)
    for answer in (client.get(path), client.get(path + "/content"), client.delete(path)):
        assert answer.status_code == 410
        assert answer.json()["type"] == "/problems/gone"
    assert stranger.get(path).status_code == 404
    database.execute("UPDATE tombstones SET purged_at = now() - interval '31 days' WHERE id = %s", [file_id])
    assert client.get(path).status_code == 404


def test_deleting_needs_the_scope(base_url: str, keys: dict[str, str], client: httpx2.Client) -> None:
    with _client(base_url, keys["reader"]) as reader:
        assert reader.delete(f"/files/{upload_file_id(client)}").status_code == 403


def test_a_task_submitted_while_its_file_is_deleted_either_holds_it_or_is_refused(
    client: httpx2.Client, database: psycopg.Connection[Any]
) -> None:
    for _ in range(5):
        file_id = upload_file_id(client)
        cancel_readers(database, client, file_id)
        with ThreadPoolExecutor(2) as threads:
            submitting = threads.submit(
                client.post, "/tasks", json={"kind": "files.inspect", "params": {"file_id": file_id}}
            )
            deleting = threads.submit(client.delete, f"/files/{file_id}")
        assert (submitting.result().status_code, deleting.result().status_code) in ((202, 409), (422, 204))


def finish_with_artifact(database: psycopg.Connection[Any], task_id: str, settings: Settings) -> tuple[str, Path]:
    """Finish a task with one artifact, as a worker does. Return the id and the path of the artifact."""
    claim_tasks(database, [task_id], claims=[7])
    artifact_id, key = str(new_id()), new_object_key()
    path = Path(settings.storage_url.removeprefix("file://")) / key
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"made")
    artifact = {"file_id": artifact_id, "name": "made.txt", "media_type": "text/plain", "size": 4, "position": 0}
    artifact |= {"sha256": hashlib.sha256(b"made").hexdigest(), "storage_key": key}
    done = {"id": task_id, "claim": 7, "status": "succeeded", "result": {}, "artifacts": [artifact]}
    database.execute(hot_tasks.FINISH_WITH_ARTIFACTS, {"document": json.dumps([done])})  # type: ignore[arg-type]
    return artifact_id, path


def test_an_artifact_is_a_file_and_deleting_it_changes_its_task(
    client: httpx2.Client, database: psycopg.Connection[Any], settings: Settings
) -> None:
    task = upload(client).json()
    artifact_id, path = finish_with_artifact(database, task["id"], settings)
    before = client.get(f"/tasks/{task['id']}")
    assert [made["id"] for made in before.json()["artifacts"]] == [artifact_id]
    assert client.get(before.json()["artifacts"][0]["url"]).content == b"made"
    file = client.get(f"/files/{artifact_id}").json()
    assert (file["origin"], file["task_id"]) == ("task", task["id"])
    assert client.delete(f"/files/{artifact_id}").status_code == 204
    assert not path.exists()
    after = client.get(f"/tasks/{task['id']}", headers={"If-None-Match": before.headers["etag"]})
    assert (after.status_code, after.json()["artifacts"]) == (200, [])
    events = database.execute("SELECT seq FROM task_events WHERE task_id = %s ORDER BY seq", [task["id"]]).fetchall()
    assert [seq for (seq,) in events] == list(range(1, len(events) + 1))


def test_deleting_a_task_and_its_artifact_at_once_never_deadlocks(
    client: httpx2.Client, database: psycopg.Connection[Any], settings: Settings
) -> None:
    for _ in range(5):
        task = upload(client).json()
        artifact_id, path = finish_with_artifact(database, task["id"], settings)
        with ThreadPoolExecutor(2) as threads:
            one = threads.submit(client.delete, f"/tasks/{task['id']}")
            other = threads.submit(client.delete, f"/files/{artifact_id}")
        assert {one.result().status_code, other.result().status_code} <= {204, 410}
        assert not path.exists()


def test_an_object_that_is_missing_from_the_storage_is_gone(client: httpx2.Client, objects: Objects) -> None:
    file_id = upload_file_id(client)
    (path,) = objects.new()
    path.unlink()
    assert client.get(f"/files/{file_id}/content").status_code == 410
