"""Browsers' requests from pages of other origins."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from pydantic import ValidationError

from shared.settings import Settings
from tests.conftest import serve_api

PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def allowing(module_settings: Settings) -> Iterator[httpx2.Client]:
    settings = module_settings.model_copy(update={"cors_origins": [PAGE]})
    with serve_api(settings) as api, httpx2.Client(base_url=api.url, trust_env=False) as client:
        yield client


def ask_before(client: httpx2.Client, origin: str, method: str = "POST", headers: str = "") -> httpx2.Response:
    asked = {"origin": origin, "access-control-request-method": method}
    return client.options("/tasks", headers=asked | ({"access-control-request-headers": headers} if headers else {}))


def test_no_origin_is_allowed_by_default(nobody: httpx2.Client) -> None:
    before = ask_before(nobody, PAGE)
    answer = nobody.get("/tasks", headers={"origin": PAGE})

    assert not [name for name in before.headers | answer.headers if name.startswith("access-control-")]


def test_a_named_origin_may_send_keys_and_read_headers(allowing: httpx2.Client) -> None:
    before = ask_before(allowing, PAGE, headers="authorization, idempotency-key, content-type")
    answer = allowing.get("/tasks", headers={"origin": PAGE})

    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in before.headers
    # Errors too, so that the page can show them.
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    assert "origin" in answer.headers["vary"].lower()


@pytest.mark.parametrize(
    "origin", ["https://app.example.com.evil.example", "http://app.example.com", "https://app.example.com:8443", "null"]
)
def test_other_origins_are_not_allowed(allowing: httpx2.Client, origin: str) -> None:
    assert ask_before(allowing, origin).status_code == 400
    assert "access-control-allow-origin" not in allowing.get("/tasks", headers={"origin": origin}).headers


@pytest.mark.parametrize("origin", ["*", "https://app.example.com/", "app.example.com", "https://*.example.com"])
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=[origin])


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKMILL_CORS_ORIGINS", "https://a.example.com, http://localhost:3000")

    assert Settings().cors_origins == ["https://a.example.com", "http://localhost:3000"]
