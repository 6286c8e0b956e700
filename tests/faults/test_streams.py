"""Streams while the API and the broker are killed: each listener ends with the same whole history."""

from __future__ import annotations

import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.local_stack.broker import BrokerServer
from shared.settings import Settings
from tests.faults.conftest import Room
from tests.stream_listeners import Listener, listen

LISTENERS = 250
TASKS = 20


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerServer]:
    with BrokerServer(tmp_path / "broker") as server:
        yield server


@pytest.fixture
def settings(settings: Settings, own_broker: BrokerServer) -> Settings:
    return settings.model_copy(update={"broker_url": own_broker.url, "rering_seconds": 2.0})


def history_of(listener: Listener) -> dict[str, list[tuple[int, str]]]:
    """Return the (seq, status) of each task, in the order in which the listener received them."""
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for _, _, data in listener.events:
        found[data["task_id"]].append((data["seq"], data["status"]))
    return dict(found)


def test_500_listeners_receive_the_whole_history_while_api_and_broker_are_killed(
    room: Room, own_broker: BrokerServer
) -> None:
    dying, client = room.api()
    _, other = room.api()
    addresses: list[tuple[str, int]] = []
    for one in (client, other):
        url = urlsplit(str(one.base_url))
        addresses.append((str(url.hostname), int(url.port or 0)))
    followed = room.submit(client, delay=1, params={"echo": "followed"})
    paths = ["/events"] * LISTENERS + [f"/tasks/{followed}/events"] * LISTENERS

    with listen(addresses, paths, client.headers["authorization"]) as listeners:
        of_all, of_one = listeners[:LISTENERS], listeners[LISTENERS:]
        # The first message of /events is a position, from which on nothing is lost.
        room.eventually(lambda: all(one.last_id for one in listeners))
        room.relay()
        tasks = room.submit_many(client, TASKS // 2)
        room.eventually(lambda: any(one.events for one in of_all))
        dying.send_signal(signal.SIGKILL)
        room.wait_for_death(dying)
        own_broker.kill()
        shutil.rmtree(own_broker.directory / "data")
        tasks += room.submit_many(other, TASKS // 2)
        own_broker.start()
        room.worker()
        assert set(room.settle().values()) == {"succeeded"}
        room.eventually(lambda: all(one.is_over for one in of_one))
        room.eventually(lambda: all(len(one.events) >= 3 * TASKS + 2 for one in of_all))

    whole = {task_id: [(1, "queued"), (2, "running"), (3, "succeeded")] for task_id in tasks}
    for listener in of_all:
        history = history_of(listener)
        about_followed = history.pop(followed)
        assert history == whole
        assert about_followed[-1][1] == "succeeded"
    for listener in of_one:
        assert [data["status"] for _, _, data in listener.events] == ["scheduled", "queued", "running", "succeeded"]
    assert max(one.connections for one in listeners) > 1
