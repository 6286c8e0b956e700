"""`POST /tasks/<id>/stream-token`: what a token opens, for how long, and that no log has it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from websockets.sync.client import connect

from api.streaming import stream_tokens, streams
from shared.api_keys import revoke_key
from shared.settings import Settings
from tests.api.conftest import ManualWorker, Submit
from tests.api.streaming.conftest import follow
from tests.conftest import PATIENCE_SECONDS, Api

MakeToken = Callable[[str], str]


@pytest.fixture
def token_of(client: httpx2.Client) -> MakeToken:
    """Returns a token for the stream of a task of the client."""

    def make(task_id: str) -> str:
        answer = client.post(f"/tasks/{task_id}/stream-token")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    return make


def test_a_token_opens_the_stream_of_its_task_without_a_header(
    served: Api, nobody: httpx2.Client, manual_worker: ManualWorker, email: Submit, token_of: MakeToken
) -> None:
    task_id = email()
    manual_worker.succeed(task_id)
    token = token_of(task_id)

    with follow(nobody, f"/tasks/{task_id}/events", params={"token": token}) as messages:
        events = [event.data["status"] for event in messages]
    url = served.url.replace("http://", "ws://") + f"/tasks/{task_id}/ws?token={token}"
    with connect(url, proxy=None, open_timeout=PATIENCE_SECONDS) as socket:
        over_socket = list(socket)

    assert events == ["queued", "running", "succeeded"]
    assert len(over_socket) == 3


def test_a_token_says_until_when_it_holds(client: httpx2.Client, email: Submit) -> None:
    answer = client.post(f"/tasks/{email()}/stream-token")

    expires_at = datetime.fromisoformat(answer.json()["expires_at"])
    assert timedelta(minutes=4) < expires_at - datetime.now(UTC) <= timedelta(minutes=5)
    assert answer.headers["cache-control"] == "no-store"


def test_a_token_opens_nothing_but_the_stream_of_its_task(
    client: httpx2.Client, nobody: httpx2.Client, email: Submit, token_of: MakeToken
) -> None:
    task_id, other = email(), email()
    token = token_of(task_id)

    assert nobody.get(f"/tasks/{other}/events", params={"token": token}).status_code == 401
    for path in (f"/tasks/{task_id}", f"/tasks/{task_id}/log", "/events", "/tasks"):
        assert nobody.get(path, params={"token": token}).status_code in {401, 422}, path
        assert nobody.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 401, path


@pytest.mark.parametrize("change", [lambda token: token[:-2] + "xx", lambda token: "x" + token, lambda _token: "x"])
def test_a_changed_token_is_refused(
    nobody: httpx2.Client, email: Submit, token_of: MakeToken, change: Callable[[str], str]
) -> None:
    task_id = email()

    answer = nobody.get(f"/tasks/{task_id}/events", params={"token": change(token_of(task_id))})

    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthorized")


def test_an_expired_token_opens_no_stream(
    nobody: httpx2.Client, email: Submit, token_of: MakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = email()
    monkeypatch.setattr(stream_tokens, "TOKEN_SECONDS", -1)

    assert nobody.get(f"/tasks/{task_id}/events", params={"token": token_of(task_id)}).status_code == 401


def test_an_open_stream_outlives_its_token_and_ends_with_its_key(
    served: Api, nobody: httpx2.Client, module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_COMMENT_SECONDS", 0.1)
    monkeypatch.setattr(streams, "CHECK_KEY_SECONDS", 0.2)
    monkeypatch.setattr(stream_tokens, "TOKEN_SECONDS", 1)
    key = served.key("leaver")
    leaver = served.client_with(key.key)
    task_id = leaver.post("/emails", json={"to": ["ada@example.com"], "text": "hello"}).json()["id"]
    token = leaver.post(f"/tasks/{task_id}/stream-token").json()["token"]

    with nobody.stream("GET", f"/tasks/{task_id}/events", params={"token": token}) as answer:
        lines = answer.iter_lines()
        comments = [line for line, _ in zip((line for line in lines if line.startswith(":")), range(12), strict=False)]
        revoke_key(module_settings, str(key.id))
        rest = list(lines)

    assert len(comments) == 12
    assert not any(line.startswith("data") for line in rest)


def test_a_token_is_in_no_log(
    nobody: httpx2.Client, email: Submit, token_of: MakeToken, capfd: pytest.CaptureFixture[str]
) -> None:
    task_id = email()
    token = token_of(task_id)
    for path in (f"/tasks/{task_id}/events", f"/tasks/{task_id}/ws", "/tasks"):
        nobody.request("POST", path, params={"token": token})
        nobody.get(path, params={"token": token + "x"})

    written = capfd.readouterr()

    assert token not in written.out + written.err


def test_a_token_is_for_a_visible_task_only(stranger: httpx2.Client, email: Submit) -> None:
    assert stranger.post(f"/tasks/{email()}/stream-token").status_code == 404
