"""Secrets of every sort go through real parts, and none of them stands in a log, a row, an event, Flower or a process list."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
from psycopg import sql

from cli.local_stack.free_ports import choose_port
from shared.api_keys import create_key
from shared.contracts.secrets import MASK
from shared.people.creation import create_person
from shared.settings import Settings
from tests.conftest import Eventually, Parts

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = '''
"""A kind of this test."""

from typing import Annotated

from pydantic import Field

from shared.contracts.kind import Kind, Params, Result
from shared.contracts.secrets import Secret


class OpenParams(Params):
    """What to open."""

    door: str = "front"
    password: Annotated[Secret, Field(min_length=3, max_length=200)]


class OpenResult(Result):
    """What was found."""

    sha256: str


KIND = Kind(
    params=OpenParams, result=OpenResult, title="Open", description="Opens.", queue="files", uses_files=False, max_attempts=1
)
'''
HANDLER = '''
"""The handler of the test's kind."""

import hashlib

from taskmill_vault.contracts.open import OpenParams, OpenResult
from workers.outcomes import Failed


def handle(params, context):
    context.write_log("info", f"opening {params.door} with {params.password}")
    context.progress(50, repr(params))
    context.log.info("vault_opened", params=repr(params))
    if params.door == "back":
        raise ValueError(f"cannot open with {params!r}")
    return OpenResult(sha256=hashlib.sha256(params.password.get_secret_value().encode()).hexdigest())
'''
SECRET_PARAM = "marker-secret-param"
CHANGED_PARAM = "marker-changed-param"
WEBHOOK_SECRET = "whsec_" + "bWFya2VyLXdlYmhvb2stc2VjcmV0LTAxMjM0NTY3ODk="
SMTP_PASSWORD = "marker-smtp-password"
FLOWER_PASSWORD = "marker-flower-password"
PASSWORD = "marker-password-of-a-person"
WRONG_PASSWORD = "marker-password-that-is-wrong"
SECRET_KEY = "marker-secret-key-" + "x" * 40


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the installed package of a kind that has a secret."""
    site = tmp_path / "site"
    for name, content in {
        "taskmill_vault/__init__.py": "",
        "taskmill_vault/contracts/__init__.py": "",
        "taskmill_vault/handlers/__init__.py": "",
        "taskmill_vault/contracts/open.py": CONTRACT,
        "taskmill_vault/handlers/open.py": HANDLER,
        "taskmill_vault-0.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: taskmill-vault\nVersion: 0.1.0\n",
        "taskmill_vault-0.1.0.dist-info/entry_points.txt": "[taskmill.kinds]\nvault = taskmill_vault\n",
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(content)
    return site


@contextmanager
def open_client(url: str, **options: Any) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=70, **options) as client:
        yield client


def answers(client: httpx2.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx2.TransportError:
        return False


def accepted(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code in {200, 201, 202}, answer.text
    body: dict[str, Any] = answer.json()
    return body


def dump_tables(settings: Settings) -> dict[str, str]:
    """Return every row of every table as text, by the name of the table."""
    with psycopg.connect(settings.database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        statement = "SELECT coalesce(string_agg(one::text, chr(10)), '') FROM {} AS one"
        rows = {
            name: connection.execute(sql.SQL(statement).format(sql.Identifier(name))).fetchone() for (name,) in tables
        }
    return {name: str(row[0]) for name, row in rows.items() if row is not None}


def list_arguments() -> str:
    """Return the arguments of every process."""
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def test_no_secret_stands_anywhere_but_where_it_is_used(parts: Parts, site: Path, eventually: Eventually) -> None:
    port, flower_port = choose_port(None), choose_port(None)
    parts.settings = parts.settings.model_copy(
        update={
            "secret_key": type(parts.settings.secret_key)(SECRET_KEY),
        }
    )
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
        "TASKMILL_SECRET_KEY": SECRET_KEY,
        "TASKMILL_SMTP_URL": f"smtp://someone:{SMTP_PASSWORD}@127.0.0.1:1",
        "TASKMILL_FLOWER_PASSWORD": FLOWER_PASSWORD,
        "TASKMILL_LOG_LEVEL": "debug",
    }
    parts.start("api", "--port", str(port), environment=environment)
    parts.start("relay", environment=environment)
    parts.start("worker", "--queues", "files,email,webhooks", "--concurrency", "2", environment=environment)
    parts.start("flower", environment=environment | {"TASKMILL_FLOWER_PORT": str(flower_port)})
    key = create_key(parts.settings, "someone").key
    bearer = {"Authorization": f"Bearer {key}"}
    with (
        open_client(f"http://127.0.0.1:{port}", headers=bearer) as client,
        open_client(f"http://127.0.0.1:{flower_port}", auth=("operator", FLOWER_PASSWORD)) as flower,
    ):
        eventually(lambda: answers(client, "/health"))
        eventually(lambda: answers(flower, "/api/tasks"))
        # A person signs in, once with a wrong password, and goes on with a new token.
        create_person(parts.settings, "ada@example.com", password=PASSWORD)
        form = {"grant_type": "password", "username": "ada@example.com", "password": PASSWORD}
        assert client.post("/auth/token", data=form | {"password": WRONG_PASSWORD}).status_code in {400, 401}
        tokens = accepted(client.post("/auth/token", data=form))
        renewed = accepted(client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}))
        of_person = [one[name] for one in (tokens, renewed) for name in ("access_token", "refresh_token")]
        assert client.get("/users/me", headers={"Authorization": f"Bearer {of_person[2]}"}).status_code == 200
        shown: list[str] = []

        def finish(task_id: str) -> dict[str, Any]:
            def find_done() -> dict[str, Any] | None:
                found: dict[str, Any] = accepted(client.get(f"/tasks/{task_id}", params={"wait": "30"}))
                return found if found["done"] else None

            task = eventually(find_done)
            shown.append(str(task))
            return task

        def submit(secret: str = SECRET_PARAM, headers: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
            body = {"kind": "vault.open", "params": {"password": secret, **options.pop("params", {})}, **options}
            return accepted(client.post("/tasks", json=body, headers=headers))

        # The schema says that it is a password, and no answer shows it, but the handler has it.
        kinds = {kind["kind"]: kind for kind in accepted(client.get("/kinds"))["items"]}
        schema = kinds["vault.open"]["params_schema"]["properties"]["password"]
        assert (schema["writeOnly"], schema["format"]) == (True, "password")
        webhook = {"url": "http://203.0.113.1/hook", "secret": WEBHOOK_SECRET}
        task = submit(webhook=webhook, headers={"Idempotency-Key": "one"})
        assert task["params"] == {"door": "front", "password": MASK}
        assert submit(webhook=webhook, headers={"Idempotency-Key": "one"})["id"] == task["id"]
        body = {"kind": "vault.open", "params": {"password": "another"}, "webhook": webhook}
        assert client.post("/tasks", json=body, headers={"Idempotency-Key": "one"}).status_code == 422
        assert finish(task["id"])["result"]["sha256"] == hashlib.sha256(SECRET_PARAM.encode()).hexdigest()
        for refused in (MASK, {"$secret": "v1:secret-key:AAAA"}, "xx"):
            answer = client.post("/tasks", json={"kind": "vault.open", "params": {"password": refused}})
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"] == "/params/password"

        # A rerun keeps it, also if the mask is sent back, and may change it. A retry keeps it.
        rerun = accepted(client.post(f"/tasks/{task['id']}/rerun", json={"params": {"password": MASK}}))
        assert finish(rerun["id"])["result"] == finish(task["id"])["result"]
        changed = accepted(client.post(f"/tasks/{task['id']}/rerun", json={"params": {"password": CHANGED_PARAM}}))
        assert finish(changed["id"])["result"]["sha256"] == hashlib.sha256(CHANGED_PARAM.encode()).hexdigest()
        failed = submit(params={"door": "back"})
        assert finish(failed["id"])["status"] == "failed"
        accepted(client.post(f"/tasks/{failed['id']}/retry"))
        assert finish(failed["id"])["error"]["type"] == "/problems/internal-error"

        # `unique_for` compares the secrets themselves.
        unique = submit(unique_for=60, delay=3600)
        assert submit(unique_for=60, delay=3600)["id"] == unique["id"]
        assert submit(CHANGED_PARAM, unique_for=60, delay=3600)["id"] != unique["id"]

        # Schedules and workflows keep it.
        schedule = accepted(
            client.post(
                "/schedules",
                json={
                    "name": "nightly",
                    "cron": "0 3 * * *",
                    "kind": "vault.open",
                    "params": {"password": SECRET_PARAM},
                },
            )
        )
        assert schedule["params"]["password"] == MASK
        current = client.get(f"/schedules/{schedule['id']}")
        patch = {"params": {"door": "side", "password": MASK}}
        etag = {"If-Match": current.headers["etag"]}
        assert (
            accepted(client.patch(f"/schedules/{schedule['id']}", json=patch, headers=etag))["params"]["door"] == "side"
        )
        run = accepted(client.post(f"/schedules/{schedule['id']}/run"))
        assert finish(run["id"])["result"] == finish(task["id"])["result"]
        step = {"name": "first", "kind": "vault.open", "params": {"password": SECRET_PARAM}}
        later = {
            "name": "last",
            "kind": "vault.open",
            "params": {"door": {"$from": "first.result.sha256"}, "password": SECRET_PARAM},
        }
        workflow = accepted(client.post("/workflows", json={"steps": [step, later]}))
        scheduled = {"name": "weekly", "cron": "0 3 * * 1", "workflow": {"steps": [step, later]}}
        stored = accepted(client.post("/schedules", json=scheduled))
        assert stored["workflow"]["steps"][1]["params"]["password"] == MASK
        accepted(client.patch(f"/schedules/{stored['id']}", json={"enabled": False, "cron": "0 4 * * 1"},
                              headers={"If-Match": client.get(f"/schedules/{stored['id']}").headers["etag"]}))  # fmt: skip
        run = accepted(client.post(f"/schedules/{stored['id']}/run"))
        reference = {**later, "params": {"password": {"$from": "first.result.sha256"}}}
        refused = client.post("/workflows", json={"steps": [step, reference]})
        assert "/steps/1/params/password" in {error["pointer"] for error in refused.json()["errors"]}
        for one in (workflow, run):
            eventually(lambda one=one: accepted(client.get(f"/workflows/{one['id']}"))["status"] == "succeeded")

        # An email task meets the mail server that is not there; every list and stream is read.
        accepted(client.post("/emails", json={"to": ["ada@example.com"], "text": "x", "max_attempts": 1}))
        eventually(lambda: task["id"] in flower.get("/api/tasks").text)
        for path in ("/tasks", "/schedules", "/workflows", "/webhook-deliveries", "/kinds"):
            for accept in ("application/json", "text/csv"):
                shown.append(client.get(path, headers={"Accept": accept}).text)
        shown.append(client.get(f"/tasks/{task['id']}/events").text)
        shown.append(client.get(f"/tasks/{failed['id']}/log").text)
        shown += [flower.get(path).text for path in ("/api/tasks", "/tasks", f"/task/{task['id']}", "/api/workers")]

    places = {
        "answers": "\n".join(shown),
        "logs": parts.logs(),
        "process arguments": list_arguments(),
        **dump_tables(parts.settings),
    }
    assert "vault_opened" in places["logs"] and task["id"] in places["tasks"]
    markers = (
        SECRET_PARAM,
        CHANGED_PARAM,
        WEBHOOK_SECRET,
        SMTP_PASSWORD,
        FLOWER_PASSWORD,
        SECRET_KEY,
        key,
        PASSWORD,
        WRONG_PASSWORD,
        *of_person,
    )
    found = {(place, marker) for place, text in places.items() for marker in markers if marker in text}
    assert found == set()
