"""Conventions of every route: problem documents, request ids, headers, methods, bodies and their limits."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx2
import orjson
import pytest
import structlog

from api.app import create_fastapi_app
from api.submitting.submissions import Submissions
from shared.settings import Settings
from tests.api.conftest import ErrorsOf, SendRaw, Submit
from tests.conftest import ServeApi

SOME_ID = "0199c0de-0000-7000-8000-000000000001"
"""No task, file or batch: fixed, because ids of parametrized tests must be the same in every process."""

JSON = {"content-type": "application/json"}
JSON_ROUTES = ["/tasks", "/tasks/batch", "/reports", "/emails"]


def require_problem(answer: httpx2.Response, status: int, name: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"/problems/{name}"
    assert problem["status"] == status
    assert problem["title"] and problem["detail"]
    assert problem["instance"] == f"urn:uuid:{answer.headers['x-request-id']}"
    return problem


# Problems


def test_a_missing_route_is_a_problem(nobody: httpx2.Client) -> None:
    for method, path in [("GET", "/nope"), ("POST", "/tasks/"), ("OPTIONS", "/nope"), ("GET", "/files//")]:
        require_problem(nobody.request(method, path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/tasks", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/tasks", "GET, HEAD, OPTIONS, POST"),
        ("POST", f"/tasks/{SOME_ID}", "DELETE, GET, HEAD, OPTIONS"),
        ("PATCH", f"/tasks/{SOME_ID}", "DELETE, GET, HEAD, OPTIONS"),
        ("GET", f"/tasks/{SOME_ID}/cancel", "OPTIONS, POST"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("TRACE", "/kinds", "GET, HEAD, OPTIONS"),
        ("DELETE", "/problems/validation", "GET, HEAD, OPTIONS"),
        ("POST", "/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_an_unsupported_method_is_refused_with_the_allowed_ones(
    nobody: httpx2.Client, method: str, path: str, allowed: str
) -> None:
    answer = nobody.request(method, path)

    require_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


def test_an_unexpected_error_reveals_nothing_of_the_server(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("SELECT secret FROM /home/somebody")

    monkeypatch.setattr(Submissions, "check_files", fail)
    body = {"to": ["ada@example.com"], "text": "hello"}

    with structlog.testing.capture_logs() as logged:
        ordinary = client.post("/emails", json=body)
        hot = client.post("/tasks", json={"kind": "email.send", "params": body})

    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == ["unexpected_error"] * 2
    for answer in (ordinary, hot):
        require_problem(answer, 500, "internal-error")
        assert "SELECT" not in answer.text and "somebody" not in answer.text and "Traceback" not in answer.text
        assert answer.headers["x-ratelimit-limit"]


def test_a_problem_lists_at_most_a_hundred_errors(operator: httpx2.Client) -> None:
    answer = operator.post("/tasks/batch", json={"tasks": [{"kind": "no.such"}] * 150})

    problem = require_problem(answer, 422, "validation")
    assert [error["pointer"] for error in problem["errors"]] == [f"/tasks/{n}/kind" for n in range(100)]
    assert all(set(error) == {"pointer", "code", "message"} for error in problem["errors"])


# Bodies


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"kind": "\\ud800"}',
        b'{"kind": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"kind": "platform.ping"}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a": 1} x',
        b"{'a': 1}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_malformed_json_is_refused_at_the_whole_body(
    operator: httpx2.Client, errors_of: ErrorsOf, path: str, body: bytes
) -> None:
    answer = operator.post(path, content=body, headers=JSON)

    assert errors_of(answer) == {"": "json_invalid"}


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/emails", '{"to":["first@example.com"],"to":["second@example.com"],"text":"x"}', "/to"),
        ("/reports", '{"query":"SELECT 1","sources":[{"name":"a","name":"b"}]}', "/sources/0/name"),
        ("/tasks", '{"kind":"platform.ping","params":{"echo":"a","echo":"b"}}', "/params/echo"),
        ("/tasks?validate_only=true", '{"kind":"platform.ping","kind":"platform.ping"}', "/kind"),
        ("/tasks/batch", '{"tasks":[{"kind":"platform.ping"},{"kind":"a","kind":"b"}]}', "/tasks/1/kind"),
        (f"/tasks/{SOME_ID}/cancel", '{"a":1,"a":1}', "/a"),
    ],
)
def test_a_repeated_key_is_refused_in_every_json_body(
    operator: httpx2.Client, errors_of: ErrorsOf, path: str, body: str, pointer: str
) -> None:
    assert errors_of(operator.post(path, content=body, headers=JSON)) == {pointer: "repeated_key"}


def test_a_repeated_key_is_refused_in_the_task_of_a_form(operator: httpx2.Client, errors_of: ErrorsOf) -> None:
    form = {"task": '{"kind":"files.inspect","params":{"a":1,"a":2}}'}

    answer = operator.post("/files", data=form, files={"file": ("a.txt", b"x")})

    assert errors_of(answer) == {"form:task/params/a": "repeated_key"}


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b"5", b"true"])
def test_a_body_that_is_no_object_is_refused_at_the_whole_body(
    operator: httpx2.Client, errors_of: ErrorsOf, path: str, body: bytes
) -> None:
    assert errors_of(operator.post(path, content=body, headers=JSON)) == {"": "dict_type"}


def test_json_that_nests_too_deeply_is_refused(operator: httpx2.Client, errors_of: ErrorsOf) -> None:
    deep = b'{"kind":"platform.ping","params":{"echo":' + b"[" * 300 + b"]" * 300 + b"}}"

    assert set(errors_of(operator.post("/tasks", content=deep, headers=JSON))) <= {"", "/params/echo"}
    assert errors_of(operator.post("/tasks/batch", content=b'{"tasks":[{},' + deep + b"]}", headers=JSON)) == {
        "/tasks/0/kind": "missing",
        "/tasks/1": "json_invalid",
    }
    assert operator.post("/emails", content=deep, headers=JSON).status_code == 422
    assert operator.post("/reports", content=deep, headers=JSON).status_code == 422


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("priority", "5"),
        ("priority", 5.0),
        ("priority", True),
        ("priority", 10),
        ("priority", -1),
        ("priority", None),
        ("priority", 10**40),
        ("delay", "1"),
        ("delay", True),
        ("delay", -1),
        ("delay", 10**12),
        ("ttl", 1.0),
        ("ttl", 0),
        ("ttl", 10**12),
        ("max_attempts", 0),
        ("max_attempts", 26),
        ("max_attempts", "3"),
        ("timeout", 0),
        ("timeout", 121),
        ("timeout", 1.5),
        ("keep_for", -1),
        ("keep_for", 365 * 86_400 + 1),
        ("keep_for", None),
        ("run_at", "tomorrow"),
        ("run_at", "2030-01-01"),
        ("run_at", "2030-01-01T00:00:00"),
        ("run_at", "1893456000"),
        ("run_at", 1893456000),
        ("run_at", "2030-02-30T00:00:00Z"),
        ("run_at", "2030-01-01T00:00Z"),
        ("run_at", "20300101T000000Z"),
        ("run_at", "2030-W01-1T00:00:00Z"),
        ("run_at", "2030-01-01T00:00:00+0100"),
        ("run_at", "2030-01-01T00:00:00+05:75"),
        ("run_at", "9999-12-31T23:59:59-23:59"),
        ("run_at", "0001-01-01T00:00:00+23:59"),
        ("tags", "a"),
        ("tags", ["x"] * 17),
        ("metadata", []),
        ("metadata", {"a": "x" * 4096}),
        ("unique_for", 0),
        ("unique_for", "60"),
    ],
)
def test_an_invalid_option_is_refused_and_not_converted(
    operator: httpx2.Client, errors_of: ErrorsOf, option: str, value: Any
) -> None:
    alone = operator.post("/tasks", json={"kind": "platform.ping", option: value})
    in_batch = operator.post("/tasks/batch", json={"tasks": [{"kind": "platform.ping", option: value}]})
    beside = operator.post("/emails", json={"to": ["a@example.com"], "text": "x", option: value})

    assert list(errors_of(alone)) == [f"/{option}"]
    assert list(errors_of(in_batch)) == [f"/tasks/0/{option}"]
    if (option, value) != ("timeout", 121):
        assert list(errors_of(beside)) == [f"/{option}"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "platform.ping", "prority": 5}, "/prority"),
        ({"kind": "platform.ping", "webhook": {"uri": "https://example.com"}}, "/webhook/uri"),
        ({"kind": "platform.ping", "a/b~c": 1}, "/a~1b~0c"),
        ({"kind": "platform.ping", "": 1}, "/"),
        ({"kind": "platform.ping", "params": {"ecko": "x"}}, "/params/ecko"),
        ({"kind": "platform.ping", "params": {"x/~": "x"}}, "/params/x~1~0"),
        ({"kind": "platform.ping", "params": None}, "/params"),
        ({"kind": "platform.ping", "params": {"sleep_ms": 1.0}}, "/params/sleep_ms"),
        ({"kind": "platform.ping", "params": {"sleep_ms": "1"}}, "/params/sleep_ms"),
        ({"kind": "platform.ping", "params": {"echo": 5}}, "/params/echo"),
        ({"kind": "platform.ping", "params": {"echo": "a\0b"}}, "/params/echo"),
        ({"kind": "platform.ping", "tags": ["ok", "a\0b"]}, "/tags/1"),
        ({"kind": "platform.ping", "tags": ["ok", "x" * 65]}, "/tags/1"),
        ({"kind": "platform.ping", "tags": [""]}, "/tags/0"),
        ({"kind": "platform.ping", "tags": [1]}, "/tags/0"),
        ({"kind": "platform.ping", "metadata": {"a/b~c": "\0"}}, "/metadata/a~1b~0c"),
        ({"kind": "platform.ping", "metadata": {"a\0": "x"}}, "/metadata"),
        ({"kind": "platform.ping", "metadata": {"a/b": {"deep": 1}}}, "/metadata/a~1b"),
        ({"kind": "files.inspect", "params": {"file_id": "x"}}, "/params/file_id"),
        ({"kind": "files.inspect"}, "/params"),
        ({"kind": "files.make_images", "params": {"file_id": str(SOME_ID), "variants": [{}]}}, "/params/variants/0/name"),
        ({"kind": "platform.ping", "run_at": "2030-01-01T00:00:00Z", "delay": 5}, "/delay"),
        ({}, "/kind"),
        ({"kind": None}, "/kind"),
        ({"kind": 5}, "/kind"),
        ({"kind": ["platform.ping"]}, "/kind"),
        ({"kind": "no.such"}, "/kind"),
        ({"kind": "maintenance.purge"}, "/kind"),
        ({"kind": "platform.ping\0"}, "/kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_error_has_the_json_pointer_of_its_field(
    operator: httpx2.Client, errors_of: ErrorsOf, body: dict[str, Any], pointer: str
) -> None:
    alone = operator.post("/tasks", json=body)
    in_batch = operator.post("/tasks/batch", json={"tasks": [{"kind": "platform.ping"}, body]})

    assert pointer in errors_of(alone)
    assert f"/tasks/1{pointer}" in errors_of(in_batch)


def test_a_problem_lists_every_error_of_a_body(operator: httpx2.Client, errors_of: ErrorsOf) -> None:
    body = {"kind": "platform.ping", "priority": "5", "params": {"sleep_ms": -1, "x": 1}, "y": 2}

    found = errors_of(operator.post("/tasks", json=body))

    assert set(found) == {"/priority", "/params/sleep_ms", "/params/x", "/y"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"kind": "caf\xe9"}', "the body is not UTF-8 at byte 13"),
        ('{"kind": 1}'.encode("utf-16"), "the body is not UTF-8 at byte 0"),
        (gzip.compress(b"{}", mtime=0), "the body is compressed"),
    ],
)
def test_a_body_that_is_not_text_is_explained(operator: httpx2.Client, body: bytes, words: str) -> None:
    answer = operator.post("/tasks", content=body, headers=JSON)

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("", "json_invalid")
    assert words in error["message"]


def test_an_invalid_list_is_one_error_in_terms_of_json(operator: httpx2.Client, errors_of: ErrorsOf) -> None:
    report = {"sources": [{"name": "my table", "file_id": SOME_ID}], "query": "SELECT 1"}
    assert errors_of(operator.post("/reports", json=report)) == {"/sources/0/name": "string_pattern_mismatch"}

    answer = operator.post("/emails", json={"to": ["ada@example.com"] * 51, "text": "x"})
    assert errors_of(answer) == {"/to": "too_long"}
    assert answer.json()["errors"][0]["message"] == "Must have at most 50 items, not 51"

    assert errors_of(operator.post("/emails", json={"to": "ada@example.com", "text": "x"})) == {"/to": "list_type"}
    assert errors_of(operator.post("/reports", json=report | {"sources": []})) == {"/sources": "too_short"}


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/merge-patch+json",
        "json",
    ],
)
def test_another_content_type_is_unsupported(operator: httpx2.Client, path: str, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type is not None else {}

    answer = operator.post(path, content=b"{}", headers=headers)

    require_problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;a=b"]
)
def test_json_is_json_with_any_parameter(operator: httpx2.Client, content_type: str) -> None:
    answer = operator.post("/tasks", content=b'{"kind":"platform.ping"}', headers={"content-type": content_type})

    assert answer.status_code == 202


# Hosts and encodings


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([], 400),
        (["x", "x"], 400),
        (["x", "y"], 400),
        ([""], 400),
        (["a b"], 400),
        (["a, b"], 400),
        (["user@x"], 400),
        (["x/path"], 400),
        (["x:port"], 400),
        (["x"], 200),
        (["x:8000"], 200),
        (["under_score.example"], 200),
        (["127.0.0.1:1"], 200),
        (["[::1]:8000"], 200),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_request_has_exactly_one_valid_host(send_raw: SendRaw, hosts: list[str], status: int, version: str) -> None:
    lines = "".join(f"Host: {host}\r\n" for host in hosts)

    answer = send_raw(f"GET /health HTTP/{version}\r\n{lines}Connection: close\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if status == 400:
        assert b"/problems/bad-request" in answer and b"connection: close" in answer


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "x-foo", "identity, gzip", "GZIP"])
@pytest.mark.parametrize("path", [*JSON_ROUTES, f"/tasks/{SOME_ID}/cancel", "/files", "/health", "/nope"])
def test_a_body_with_a_content_encoding_is_unsupported(operator: httpx2.Client, path: str, encoding: str) -> None:
    answer = operator.post(path, content=gzip.compress(b"{}"), headers={**JSON, "content-encoding": encoding})

    require_problem(answer, 415, "unsupported-media-type")


def test_identity_is_accepted_and_requests_without_a_body_are_not_checked(operator: httpx2.Client) -> None:
    submitted = operator.post("/tasks", json={"kind": "platform.ping"}, headers={"content-encoding": "Identity"})
    listed = operator.get("/tasks", headers={"content-encoding": "gzip"})
    chunked = operator.post("/tasks", content=iter([b"{}"]), headers={**JSON, "content-encoding": "gzip"})

    assert (submitted.status_code, listed.status_code, chunked.status_code) == (202, 200, 415)


# Sizes


LIMITED_BODIES = ["/tasks", "/reports", "/emails", f"/tasks/{SOME_ID}/cancel", f"/batches/{SOME_ID}/cancel"]


@pytest.mark.parametrize(
    ("path", "declared"),
    [*((path, declared) for path in LIMITED_BODIES for declared in (True, False)), ("/nope", True)],
)
def test_a_body_beyond_the_limit_is_refused_without_reading_the_rest(
    operator: httpx2.Client, send_raw: SendRaw, path: str, declared: bool
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {operator.headers['authorization']}\r\n"
    head += "Content-Type: application/json\r\n"
    if declared:
        request = f"{head}Content-Length: 1048577\r\n\r\n".encode()
    else:
        request = f"{head}Transfer-Encoding: chunked\r\n\r\n100001\r\n".encode() + b" " * 0x100001 + b"\r\n"

    answer = send_raw(request)

    status, _, rest = answer.partition(b"\r\n")
    headers, _, body = rest.partition(b"\r\n\r\n")
    assert b" 413 " in status
    assert json.loads(body)["type"] == "/problems/too-large"
    assert b"connection: close" in headers.lower()


@pytest.mark.parametrize(
    ("path", "make_body"),
    [
        ("/tasks", lambda wrong: {"kind": "platform.ping", "params": {}} | wrong),
        ("/tasks", lambda wrong: {"kind": "platform.ping", "params": wrong}),
        ("/tasks", lambda wrong: {"kind": "email.send", "params": {"to": list(wrong.values()), "text": "x"}}),
        ("/emails", lambda wrong: wrong),
        ("/tasks/batch", lambda wrong: {"tasks": [{"kind": "platform.ping", "params": {}}]} | wrong),
        ("/tasks/batch", lambda wrong: {"tasks": [{"kind": "platform.ping", "params": wrong}] * 12}),
        ("/tasks/batch", lambda wrong: {"tasks": list(wrong.values())}),
    ],
)
def test_a_body_with_very_many_findings_is_refused_soon(
    operator: httpx2.Client, path: str, make_body: Callable[[dict[str, int]], object]
) -> None:
    body = orjson.dumps(make_body({f"a{i}": 1 for i in range(90_000)}))

    began = time.process_time()

    problem = require_problem(operator.post(path, content=body, headers=JSON), 422, "validation")

    assert 1 <= len(problem["errors"]) <= 100
    assert time.process_time() - began < 2.5, "the API runs in this process"


def test_a_batch_may_be_larger_and_has_a_limit_too(operator: httpx2.Client, send_raw: SendRaw) -> None:
    big = {"tasks": [{"kind": "platform.ping", "metadata": {"x": "y" * 3000}}] * 500}
    head = f"POST /tasks/batch HTTP/1.1\r\nHost: x\r\nAuthorization: {operator.headers['authorization']}\r\n"

    taken = operator.post("/tasks/batch?validate_only=true", json=big)
    refused = send_raw(f"{head}Content-Type: application/json\r\nContent-Length: {(16 << 20) + 1}\r\n\r\n".encode())

    assert taken.status_code == 200
    assert b" 413 " in refused.partition(b"\r\n")[0]
    assert b"connection: close" in refused


def test_a_body_of_exactly_the_limit_is_read(operator: httpx2.Client) -> None:
    body = b'{"kind":"platform.ping"}'

    answer = operator.post("/tasks?validate_only=true", content=body + b" " * ((1 << 20) - len(body)), headers=JSON)

    assert answer.status_code == 200


# Queries


READING = ["/tasks", f"/tasks/{SOME_ID}", f"/batches/{SOME_ID}", "/kinds", "/files", f"/files/{SOME_ID}", "/health"]
READING += ["/health/ready", "/problems/validation", f"/files/{SOME_ID}/content", "/openapi.json", "/docs"]
WRITING = [
    *JSON_ROUTES,
    f"/tasks/{SOME_ID}/cancel",
    f"/tasks/{SOME_ID}/retry",
    f"/batches/{SOME_ID}/cancel",
    "/files",
]


@pytest.mark.parametrize("path", READING)
def test_an_unknown_query_name_is_refused_when_reading(admin: httpx2.Client, errors_of: ErrorsOf, path: str) -> None:
    assert errors_of(admin.get(path, params={"tpyo": "1"})) == {"query:tpyo": "extra_forbidden"}
    assert errors_of(admin.get(f"{path}?tpyo")) == {"query:tpyo": "extra_forbidden"}


@pytest.mark.parametrize("path", WRITING)
def test_an_unknown_query_name_is_refused_when_writing(admin: httpx2.Client, errors_of: ErrorsOf, path: str) -> None:
    assert errors_of(admin.post(path, json={}, params={"validate_onyl": "true"})) == {
        "query:validate_onyl": "extra_forbidden"
    }


@pytest.mark.parametrize("path", [f"/tasks/{SOME_ID}", f"/files/{SOME_ID}"])
def test_an_unknown_query_name_is_refused_when_deleting(admin: httpx2.Client, errors_of: ErrorsOf, path: str) -> None:
    assert errors_of(admin.delete(path, params={"force": "1"})) == {"query:force": "extra_forbidden"}


@pytest.mark.parametrize("limit", ["0", "201", "1.0", " 5", "x", ""])
def test_a_page_of_files_has_the_limits_of_every_page(admin: httpx2.Client, errors_of: ErrorsOf, limit: str) -> None:
    assert list(errors_of(admin.get("/files", params={"limit": limit}))) == ["query:limit"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/tasks?limit=1&limit=2", "limit"),
        ("/tasks?kind=a&limit=1&kind=a", "kind"),
        ("/files?limit=1&limit=1", "limit"),
        (f"/tasks/{SOME_ID}?wait=1&wait=1", "wait"),
    ],
)
def test_a_query_name_that_is_given_twice_is_refused(
    admin: httpx2.Client, errors_of: ErrorsOf, path: str, name: str
) -> None:
    assert errors_of(admin.get(path)) == {f"query:{name}": "repeated"}


@pytest.mark.parametrize("path", ["/tasks", "/tasks/batch", "/reports", "/emails"])
def test_validate_only_that_is_given_twice_is_refused(admin: httpx2.Client, errors_of: ErrorsOf, path: str) -> None:
    answer = admin.post(f"{path}?validate_only=true&validate_only=true", json={})

    assert errors_of(answer) == {"query:validate_only": "repeated"}


@pytest.mark.parametrize("path", ["/tasks", "/tasks/batch", "/reports", "/emails"])
@pytest.mark.parametrize("query", ["validate_only=1", "validate_only=True", "validate_only", "validate_only="])
def test_validate_only_is_true_or_false_and_nothing_else(
    admin: httpx2.Client, errors_of: ErrorsOf, path: str, query: str
) -> None:
    assert errors_of(admin.post(f"{path}?{query}", json={})) == {"query:validate_only": "bool_parsing"}


# Ids and security


def test_a_valid_request_id_is_kept_and_any_other_replaced(nobody: httpx2.Client, client: httpx2.Client) -> None:
    sane = ["a", "Req_1.2-3", "x" * 128]
    not_sane = ["", "x" * 129, "a b", "a/b", "ä".encode("latin-1"), "a;b"]

    for path, caller in [("/health", nobody), ("/nope", nobody), ("/tasks", nobody), (f"/tasks/{SOME_ID}", client)]:
        for given in sane:
            assert caller.get(path, headers={"x-request-id": given}).headers["x-request-id"] == given
        for given in not_sane:
            answer = caller.get(
                path, headers=[(b"x-request-id", given if isinstance(given, bytes) else given.encode())]
            )
            assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])


def test_every_answer_has_a_request_id_and_the_security_headers(
    nobody: httpx2.Client, operator: httpx2.Client, ping: Submit
) -> None:
    task_id = ping()

    answers = [
        operator.get(f"/tasks/{task_id}"),
        operator.get(f"/tasks/{task_id}", headers={"if-none-match": "*"}),
        operator.head(f"/tasks/{task_id}"),
        operator.request("OPTIONS", f"/tasks/{task_id}"),
        operator.get("/tasks"),
        operator.post("/tasks", content=b"{", headers=JSON),
        operator.post("/tasks", content=b" " * (1 << 21), headers=JSON),
        operator.put("/tasks"),
        nobody.get("/tasks"),
        nobody.get("/nope"),
        nobody.get("/health"),
        nobody.get("/health/ready"),
        nobody.get("/docs"),
        nobody.get("/openapi.json"),
        nobody.get("/problems/gone"),
        operator.post(f"/tasks/{task_id}/cancel"),
        operator.delete(f"/tasks/{task_id}"),
    ]

    assert [answer.status_code for answer in answers] == [
        *(200, 304, 200, 204, 200, 422, 413, 405, 401, 404, 200, 200, 200, 200, 200, 202, 204),
    ]
    for answer in answers:
        assert answer.headers["x-request-id"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "strict-transport-security" in answer.headers
        assert len(answer.headers.get_list("x-request-id")) == 1


# Methods


@pytest.mark.parametrize("path", ["/tasks", "/kinds", "/files", "/health", "/problems/gone", "/openapi.json", "/docs"])
def test_head_is_get_without_the_body(admin: httpx2.Client, path: str) -> None:
    got, asked = admin.get(path), admin.head(path)

    assert asked.status_code == 200 and asked.content == b""
    changing = {"x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit", "date"}
    for name, value in got.headers.items():
        assert name in changing or asked.headers[name] == value
    assert asked.headers["content-length"] == str(len(got.content))


def test_head_of_a_task_is_get_without_the_body(operator: httpx2.Client, ping: Submit, nobody: httpx2.Client) -> None:
    path = f"/tasks/{ping()}"

    got, asked = operator.get(path), operator.head(path)
    missing = operator.head(f"/tasks/{SOME_ID}")

    for name in ("etag", "content-length", "content-type", "retry-after", "cache-control", "vary"):
        assert asked.headers[name] == got.headers[name]
    assert asked.content == missing.content == nobody.head(path).content == b""
    assert missing.status_code == 404 and int(missing.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/tasks", "GET, HEAD, OPTIONS, POST"),
        (f"/tasks/{SOME_ID}", "DELETE, GET, HEAD, OPTIONS"),
        (f"/tasks/{SOME_ID}/retry", "OPTIONS, POST"),
        ("/files", "GET, HEAD, OPTIONS, POST"),
        (f"/files/{SOME_ID}/content", "GET, HEAD, OPTIONS"),
        ("/reports", "OPTIONS, POST"),
        ("/health", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_lists_the_methods(nobody: httpx2.Client, path: str, allowed: str) -> None:
    answer = nobody.request("OPTIONS", path)

    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allowed, b"")


# Caches


def test_answers_and_refusals_are_private_to_their_caller(
    operator: httpx2.Client, stranger: httpx2.Client, nobody: httpx2.Client, ping: Submit
) -> None:
    task_id = ping()

    answers = [
        operator.get(f"/tasks/{task_id}"),
        operator.get(f"/tasks/{task_id}", headers={"if-none-match": "*"}),
        operator.get("/tasks"),
        operator.get("/kinds"),
        operator.post("/tasks", json={"kind": "platform.ping"}),
        operator.post("/tasks?validate_only=true", json={"kind": "platform.ping"}),
        operator.post("/tasks", json={}),
        stranger.get(f"/tasks/{task_id}"),
        stranger.get(f"/batches/{task_id}"),
        nobody.get(f"/tasks/{task_id}"),
        nobody.get("/tasks"),
        operator.post(f"/tasks/{task_id}/cancel"),
        operator.post(f"/tasks/{task_id}/cancel"),
        operator.delete(f"/tasks/{task_id}"),
        operator.get(f"/tasks/{task_id}"),
    ]

    assert [answer.status_code for answer in answers] == [
        *(200, 304, 200, 200, 202, 200, 422, 404, 404, 401, 401, 202, 409, 204, 410),
    ]
    for answer in answers:
        assert answer.headers["cache-control"] == "private, no-cache"
        # A list has several forms, which `Accept` chooses from.
        form = (
            ", Accept" if answer.url.path == "/tasks" and answer.request.method == "GET" and answer.is_success else ""
        )
        assert answer.headers["vary"] == f"Authorization, X-API-Key, Prefer{form}"


def test_only_answers_worth_repeating_have_retry_after(operator: httpx2.Client) -> None:
    assert "retry-after" not in operator.get("/tasks").headers
    assert "retry-after" not in operator.get("/kinds").headers
    assert operator.post("/emails", json={"to": ["a@example.com"], "text": "x"}).headers["retry-after"] == "1"


# Settings


def test_a_body_is_refused_by_routes_that_take_none(operator: httpx2.Client, errors_of: ErrorsOf, ping: Submit) -> None:
    path = f"/tasks/{ping()}/cancel"

    assert errors_of(operator.post(path, json={"reason": "no longer needed"})) == {"/reason": "extra_forbidden"}
    assert errors_of(operator.post(path, content=b"{", headers=JSON)) == {"": "json_invalid"}
    require_problem(operator.post(path, content=b"reason=x"), 415, "unsupported-media-type")
    assert operator.post(path, json={}).status_code == 202
    assert operator.post(f"/tasks/{ping()}/cancel", content=b"{ }", headers=JSON).status_code == 202


def test_other_hosts_are_refused_and_the_docs_may_be_closed(settings: Settings, serve: ServeApi) -> None:
    closed = settings.model_copy(update={"allowed_hosts": ["Tasks.example.com", "[::1]"], "docs_enabled": False})

    with serve(closed) as api:
        client = api.client_with(None)
        wrong = client.get("/health")
        right = client.get("/health", headers={"host": "tasks.EXAMPLE.com:8000"})
        literal = client.get("/health", headers={"host": "[::1]:8000"})
        docs = client.get("/docs", headers={"host": "tasks.example.com"})
        schema = client.get("/openapi.json", headers={"host": "tasks.example.com"})

    require_problem(wrong, 400, "bad-request")
    assert right.status_code == literal.status_code == 200
    require_problem(docs, 404, "not-found")
    require_problem(schema, 404, "not-found")


def test_timestamps_are_rfc_3339_in_utc_with_milliseconds_and_ids_are_in_order(
    operator: httpx2.Client, ping: Submit
) -> None:
    ids = [ping(run_at="2035-01-01t02:00:00.1239+02:00") for _ in range(3)]

    task = operator.get(f"/tasks/{ids[0]}").json()

    assert task["run_at"] == "2035-01-01T00:00:00.123Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", task["created_at"])
    assert ids == sorted(ids)
    assert all(text[14] == "7" for text in ids)


def test_the_application_is_built_without_the_servers_that_it_needs(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})

    assert create_fastapi_app(nowhere).title == "Taskmill"
