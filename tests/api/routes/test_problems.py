"""`GET /problems/<name>` explains every error type of requests and tasks."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from api.http.problems import PROBLEMS
from shared.contracts.catalog import list_kinds

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_an_error_type_of_requests_is_explained(nobody: httpx2.Client, name: str) -> None:
    answer = nobody.get(f"/problems/{name}")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    explanation = answer.json()
    assert explanation["type"] == f"/problems/{name}"
    assert explanation["title"] == PROBLEMS[name].title
    assert explanation["status"] == PROBLEMS[name].status
    assert len(explanation["explanation"]) > 20


@pytest.mark.parametrize(
    ("kind", "name"), sorted((kind, name) for kind, contract in list_kinds().items() for name in contract.errors)
)
def test_an_error_type_of_a_kind_is_explained(nobody: httpx2.Client, kind: str, name: str) -> None:
    explanation = nobody.get(f"/problems/{name}").json()

    assert explanation["type"] == f"/problems/{name}"
    assert kind in explanation["kinds"]
    assert len(explanation["explanation"]) > 20


@pytest.mark.parametrize("name", ["timed-out", "worker-lost", "out-of-memory", "cancelled", "expired"])
def test_an_error_type_of_every_kind_is_explained(nobody: httpx2.Client, name: str) -> None:
    assert nobody.get(f"/problems/{name}").json()["explanation"]


def test_every_type_that_the_code_names_is_explained(nobody: httpx2.Client) -> None:
    sources = [path for folder in ("api", "shared", "workers") for path in (ROOT / folder).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"/problems/([a-z][a-z-]+)", path.read_text())}

    unexplained = {name for name in named if nobody.get(f"/problems/{name}").status_code != 200}

    assert len(named) > 10
    assert unexplained == set()


def test_an_unknown_error_type_is_not_found(nobody: httpx2.Client) -> None:
    for name in ("nope", "%00", "ü", "Validation", "x" * 1000):
        answer = nobody.get(f"/problems/{name}")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
