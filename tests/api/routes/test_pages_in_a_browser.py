"""Pages in headless Chromium: `/docs` runs under its content security policy, and `docs/examples/follow.html` follows a task by
`EventSource` with a stream token."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import ClientConnection, connect

from shared.queries.hot_tasks import WRITE_LOG
from tests.api.conftest import ManualWorker, Submit
from tests.conftest import PATIENCE_SECONDS, Api, Eventually, wait_until_true
from tests.needed_programs import find_program

PAGE = "/docs/examples/follow.html"


class Browser:
    """One page in Chromium, driven over the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    def call(self, method: str, **parameters: object) -> Any:
        """Call a method of the protocol and return its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE_SECONDS))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression on the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")


def find_page(port: str) -> str | None:
    """Return the URL of the debugger of the browser's first page, once it has one."""
    things = httpx2.get(f"http://127.0.0.1:{port}/json/list", trust_env=False, timeout=PATIENCE_SECONDS).json()
    return next((str(one["webSocketDebuggerUrl"]) for one in things if one["type"] == "page"), None)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = find_program("chromium")
    assert program is not None
    argv = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    argv += ["--remote-debugging-port=0", f"--user-data-dir={tmp_path}/profile", "--window-size=900,700", "about:blank"]
    with (tmp_path / "chromium.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        port_file = tmp_path / "profile" / "DevToolsActivePort"

        def has_written_its_port() -> bool:
            assert process.poll() is None, "Chromium has ended"
            return port_file.exists() and port_file.read_text().count("\n") >= 1

        wait_until_true(has_written_its_port)
        port = port_file.read_text().splitlines()[0]
        page = wait_until_true(lambda: find_page(port))
        with connect(page, proxy=None, max_size=None, open_timeout=PATIENCE_SECONDS) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
        shutil.rmtree(tmp_path / "profile", ignore_errors=True)


@pytest.mark.needs_program("chromium", debian="chromium")
def test_the_page_follows_a_task_in_a_browser(
    served: Api,
    client: httpx2.Client,
    manual_worker: ManualWorker,
    email: Submit,
    browser: Browser,
    eventually: Eventually,
    tmp_path: Path,
) -> None:
    task_id = email(client)
    key = client.headers["authorization"].removeprefix("Bearer ")
    browser.call("Page.enable")
    browser.call("Page.navigate", url=served.url + PAGE)
    assert eventually(lambda: browser.evaluate("document.readyState === 'complete' && !!document.forms.length"))

    browser.evaluate(
        f"document.getElementById('task').value = {json.dumps(task_id)};"
        f"document.getElementById('key').value = {json.dumps(key)};"
        "document.getElementById('form').requestSubmit()"
    )
    assert eventually(lambda: browser.evaluate("document.getElementById('status').textContent") == "queued")
    manual_worker.claim(task_id)
    manual_worker.report(task_id, 40, "2 of 5")
    line = [{"position": 1, "age": 0.0, "data": {"level": "info", "text": "<b>hello</b>", "fields": {}}}]
    claim = manual_worker.count("SELECT claim FROM tasks WHERE id = %s", task_id)
    manual_worker.connection.execute(
        WRITE_LOG, {"id": task_id, "claim": claim, "count": 1, "document": json.dumps(line)}
    )
    manual_worker.end(task_id, "succeeded", result={"recipients": []})
    assert eventually(lambda: browser.evaluate("document.getElementById('status').textContent") == "succeeded")

    screenshot = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
    (tmp_path / "follow.png").write_bytes(screenshot)
    lines = browser.evaluate("[...document.querySelectorAll('#history li')].map(line => line.innerText)")
    assert [line.split("\n")[1:] for line in lines] == [
        ["status", "queued"],
        ["status", "running"],
        ["progress", "40 % 2 of 5"],
        ["log", "info: <b>hello</b>"],
        ["status", "succeeded"],
    ]
    assert browser.evaluate("document.getElementById('progress').value") == 100
    assert len(screenshot) > 5000


def test_the_page_may_run_its_own_script_only(nobody: httpx2.Client) -> None:
    answer = nobody.get(PAGE)

    policy = answer.headers["content-security-policy"]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy


@pytest.mark.needs_program("chromium", debian="chromium")
def test_the_docs_page_works_under_its_policy(
    served: Api, browser: Browser, eventually: Eventually, tmp_path: Path
) -> None:
    browser.call("Page.enable")
    browser.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="window.refused = [];"
        "document.addEventListener('securitypolicyviolation', event => refused.push(event.violatedDirective + ' ' + event.sample))",
    )
    browser.call("Page.navigate", url=f"{served.url}/docs")
    assert eventually(lambda: browser.evaluate("document.querySelectorAll('.opblock').length > 20"))
    browser.evaluate("document.querySelector('.opblock-summary-control').click()")
    assert eventually(lambda: browser.evaluate("!!document.querySelector('.opblock-body')"))

    (tmp_path / "docs.png").write_bytes(base64.b64decode(browser.call("Page.captureScreenshot")["data"]))
    assert browser.evaluate("refused") == []
