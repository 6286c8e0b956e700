"""`/docs` works without internet access: everything that it loads comes from this server."""

from __future__ import annotations

import re

import httpx2
import pytest


@pytest.fixture(scope="module")
def page(nobody: httpx2.Client) -> httpx2.Response:
    answer = nobody.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    return answer


def test_this_server_serves_everything_that_the_docs_page_loads(nobody: httpx2.Client, page: httpx2.Response) -> None:
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']|url: '([^']+)'""", page.text)
    paths = {path for pair in loaded for path in pair if path}

    assert paths == {"/openapi.json", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon.png"}
    for path in paths:
        answer = nobody.get(path)
        assert answer.status_code == 200
        assert len(answer.content) > 1000
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "://" not in re.sub(r"<!--.*?-->", "", page.text, flags=re.DOTALL)


def test_each_asset_has_the_media_type_that_browsers_require(nobody: httpx2.Client) -> None:
    types = {
        name: nobody.get(f"/docs/{name}").headers["content-type"].partition(";")[0]
        for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
    }

    assert types == {
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon.png": "image/png",
    }


def test_the_docs_page_may_load_nothing_from_other_servers(page: httpx2.Response) -> None:
    policy = page.headers["content-security-policy"]

    assert policy.startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/docs/redoc.standalone.js", "/docs/..%2fcore.py", "/docs/%2e%2e/core.py", "/docs/"])
def test_other_files_of_the_package_are_not_served(nobody: httpx2.Client, path: str) -> None:
    answer = nobody.get(path)

    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


def test_head_of_an_asset_has_its_length_and_no_body(nobody: httpx2.Client) -> None:
    answer = nobody.head("/docs/swagger-ui.css")

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 1000
