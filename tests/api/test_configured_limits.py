"""Each limit of the API that a setting changes holds at its configured value, and not only at its default."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx2
import psycopg
import pytest

from shared.settings import Settings
from tests.conftest import Api

MAX_JSON = 2048
MAX_BATCH = 4096
PRIVILEGED_REQUESTS = 5


@pytest.fixture(scope="module")
def limited(module_settings: Settings, serve: Callable[[Settings], AbstractContextManager[Api]]) -> Iterator[Api]:
    limits = {
        "max_json_bytes": MAX_JSON,
        "max_batch_bytes": MAX_BATCH,
        "rate_limit_privileged": PRIVILEGED_REQUESTS,
        "database_pool_size": 1,
    }
    with serve(module_settings.model_copy(update=limits)) as api:
        yield api


def make_body(document: object, size: int) -> bytes:
    """Return the document as JSON of that size."""
    text = json.dumps(document)
    return (text + " " * (size - len(text))).encode()


@pytest.mark.parametrize(
    ("path", "document", "limit"),
    [
        ("/emails", {"to": ["ada@example.com"], "text": "hello"}, MAX_JSON),
        ("/reports", {"sources": [], "query": "SELECT 1 AS one"}, MAX_JSON),
        ("/tasks", {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "hello"}}, MAX_JSON),
        (
            "/tasks/batch",
            {"tasks": [{"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "hello"}}]},
            MAX_BATCH,
        ),
        ("/workflows", {"steps": [{"name": "mail", "kind": "email.send", "params": {}}]}, MAX_BATCH),
    ],
)
def test_a_body_of_one_byte_more_than_configured_is_refused(
    limited: Api, path: str, document: object, limit: int
) -> None:
    client = limited.client()

    def post(size: int) -> httpx2.Response:
        return client.post(path, content=make_body(document, size), headers={"Content-Type": "application/json"})

    assert post(limit).status_code in {200, 202, 422}
    refused = post(limit + 1)
    assert (refused.status_code, refused.json()["type"]) == (413, "/problems/too-large")


def test_an_operator_has_the_configured_number_of_requests(limited: Api) -> None:
    operator = limited.client("limited-operator", "operator")

    statuses = [operator.get("/tasks").status_code for _ in range(PRIVILEGED_REQUESTS + 1)]

    assert statuses == [200] * PRIVILEGED_REQUESTS + [429]


def test_an_api_process_opens_no_more_connections_than_configured(limited: Api) -> None:
    client = limited.client()
    with psycopg.connect(limited.settings.database_url, autocommit=True) as connection:

        def count() -> int:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'taskmill-api%'"
            ).fetchone()
            assert row is not None
            return int(row[0])

        with ThreadPoolExecutor(16) as threads:
            answers = [threads.submit(client.get, "/tasks") for _ in range(200)]
            most = 0
            while not all(answer.done() for answer in answers):
                most = max(most, count())

    assert {answer.result().status_code for answer in answers} == {200}
    # Two pools of one connection each, and the four more that the setting's description names.
    assert 1 <= most <= 2 + 4
