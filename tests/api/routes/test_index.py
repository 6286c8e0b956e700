"""`GET /`: the docs for browsers, and the entry points for programs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx2
import pytest

from shared.settings import Settings
from shared.version import VERSION
from tests.conftest import Api

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("accept", [BROWSER, "text/html", "TEXT/HTML; charset=utf-8"])
def test_a_browser_is_redirected_to_the_docs(nobody: httpx2.Client, accept: str) -> None:
    answer = nobody.get("/", headers={"accept": accept})

    assert (answer.status_code, answer.headers["location"]) == (303, "/docs")
    assert answer.headers["vary"] == "Accept"


@pytest.mark.parametrize("accept", ["*/*", "application/json", "", "application/json, text/html", "text/html;q=0, */*"])
def test_a_program_gets_the_entry_points(nobody: httpx2.Client, accept: str) -> None:
    answer = nobody.get("/", headers={"accept": accept})

    assert (answer.status_code, answer.headers["vary"]) == (200, "Accept")
    index = answer.json()
    assert (index["name"], index["version"]) == ("Taskmill", VERSION)
    for path in index["links"].values():
        assert nobody.request("OPTIONS", path).status_code == 204, path


def test_without_docs_a_browser_gets_the_entry_points_too(
    settings: Settings, serve: Callable[[Settings], AbstractContextManager[Api]]
) -> None:
    with serve(settings.model_copy(update={"docs_enabled": False})) as api:
        answer = api.client_with(None).get("/", headers={"accept": BROWSER})

    assert answer.status_code == 200
    assert not {"docs", "schema"} & answer.json()["links"].keys()
