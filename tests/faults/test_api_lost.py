"""An API that is killed before or after its commit: repeats with the same key still submit one task."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.faults.conftest import Room


@pytest.mark.parametrize(("moment", "stored"), [("api-before-commit", 0), ("api-after-commit", 1)])
def test_an_idempotency_key_gives_one_task_when_the_api_dies_around_its_commit(
    room: Room, client: httpx2.Client, moment: str, stored: int
) -> None:
    dying, cut_off = room.api(kill=moment)
    request = {"json": {"kind": "platform.ping", "params": {"echo": "once"}}}
    keyed = {"Idempotency-Key": "one"}

    with pytest.raises(httpx2.HTTPError):
        cut_off.post("/tasks", headers=keyed, **request)
    room.wait_for_death(dying)
    left_by_the_dead = room.ask("SELECT count(*) FROM tasks")[0][0]
    again = client.post("/tasks", headers={**keyed, "Authorization": cut_off.headers["Authorization"]}, **request)

    assert left_by_the_dead == stored
    assert again.status_code == 202
    assert again.headers.get("Idempotency-Replayed") == ("true" if stored else None)
    room.note(again.json()["id"])
    room.relay()
    room.worker()
    assert set(room.settle().values()) == {"succeeded"}
    assert room.ask("SELECT count(*) FROM tasks") == [(1,)]


def test_an_api_that_stops_under_load_answers_no_5xx_except_503(room: Room) -> None:
    process, client = room.api()
    other, second = room.api()
    outcomes: list[int | str] = []

    def submit(number: int) -> None:
        try:
            answer = (client if number % 2 else second).post("/tasks", json={"kind": "platform.ping", "params": {}})
        except httpx2.ConnectError:
            outcomes.append("refused")
        except httpx2.HTTPError as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append(answer.status_code)
            if answer.status_code == 202:
                room.note(answer.json()["id"])

    with ThreadPoolExecutor(8) as threads:
        work = threads.map(submit, range(600))
        room.eventually(lambda: len(room.accepted) >= 50)
        process.send_signal(signal.SIGTERM)
        list(work)
    room.eventually(lambda: process.poll() is not None)

    assert process.returncode in {0, -signal.SIGTERM}
    assert other.poll() is None
    assert outcomes.count(202) == len(room.accepted) > 300
    assert {outcome for outcome in outcomes if isinstance(outcome, int)} <= {202, 503}
    stored = room.ask("SELECT count(*) FROM tasks")[0][0]
    # A request may be lost with an idle connection that was closed; its client does not know, and would repeat it.
    assert 0 <= stored - len(room.accepted) <= outcomes.count("RemoteProtocolError") + outcomes.count("ReadError")
