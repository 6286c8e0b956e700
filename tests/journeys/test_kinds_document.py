"""The kind that `docs/kinds.md` builds: installed by pip, tested by its own test, and run by a real API and worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from cli.development.new_kind import add_kind_to_package
from cli.local_stack.free_ports import choose_port
from shared.api_keys import create_key
from tests.conftest import Eventually, Parts

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "kinds.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the document: what `new-kind` writes, with the files that the document shows."""
    package = tmp_path_factory.mktemp("kinds") / "acme-kinds"
    add_kind_to_package("acme.top_words", package)
    shown = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(shown) == 4
    for name, content in shown:
        (package / name).write_text(content, encoding="utf-8")
    return package


@pytest.fixture(scope="module")
def site(package: Path) -> Path:
    """The folder into which pip has installed the package."""
    site = package.parent / "site"
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*argv, "--target", str(site), str(package)], check=True)
    return site


def test_the_test_of_the_document_passes(package: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

    run = subprocess.run(argv, cwd=package, env=environment, capture_output=True, text=True, timeout=120)

    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout


def test_the_kind_of_an_installed_package_runs_like_any_other(site: Path, parts: Parts, eventually: Eventually) -> None:
    port = choose_port(None)
    installed = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    parts.start("api", "--port", str(port), environment=installed)
    parts.start("worker", "--queues", "files", "--concurrency", "1", environment=installed)
    parts.start("relay", environment=installed)
    key = create_key(parts.settings, "someone").key
    with httpx2.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=70
    ) as client:
        eventually(lambda: _answers(client))

        upload = client.post("/files", files={"file": ("hamlet.txt", b"To be, or not to be", "text/plain")})
        params = {"file_id": upload.json()["params"]["file_id"], "limit": 1}
        accepted = client.post("/tasks", json={"kind": "acme.top_words", "params": params})
        assert accepted.status_code == 202, accepted.text
        task = eventually(lambda: _find_done(client, accepted.json()["links"]["self"]))

        assert (task["status"], task["result"]) == ("succeeded", {"words": [{"word": "be", "count": 2}]})
        table = client.get(task["artifacts"][0]["url"]).text
        assert table.splitlines() == ["word,count", "be,2", "to,2", "not,1", "or,1"]
        refused = client.post("/tasks", json={"kind": "acme.top_words", "params": params | {"limit": 0}})
        assert refused.json()["errors"][0]["pointer"] == "/params/limit"
        assert (
            client.get("/problems/no-words").json()["explanation"] == "The file has no words. Upload a text that has."
        )
        assert "acme.top_words" in {kind["kind"] for kind in client.get("/kinds").json()["items"]}


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx2.TransportError:
        return False


def _find_done(client: httpx2.Client, url: str) -> dict[str, object] | None:
    task: dict[str, object] = client.get(url, params={"wait": "30"}).json()
    return task if task["done"] else None
