"""SIGTERM to each kind of process under load: what has begun is finished or requeued, and nothing happens twice."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx2
import pytest
from pydantic import JsonValue

from cli.local_stack.free_ports import choose_port
from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS
from tests.faults.conftest import Room
from tests.forked_parts import Part

NO_REPUBLISHING = {"TASKMILL_RERING_SECONDS": "600"}
"""What is not published at once is then not published within the test."""
CLIENTS = 6
PAUSE_SECONDS = 0.01
"""The pause of each client between two requests."""
STOP_SECONDS = 60
"""How long a process may take to stop on a busy machine."""

Outcome = int | str
"""The status of a response, or the name of the error that a client met instead."""


@contextmanager
def load(room: Room, clients: list[httpx2.Client], outcomes: Counter[Outcome], **params: JsonValue) -> Iterator[None]:
    """Submit pings from several threads, each going round the clients under keys of its own, until the block ends."""
    stopping = threading.Event()
    lock = threading.Lock()

    def submit(number: int) -> None:
        for turn in itertools.count():
            if stopping.wait(PAUSE_SECONDS):
                return
            key = f"{number}-{turn}"
            client = clients[turn % len(clients)]
            outcome: Outcome
            try:
                answer = client.post(
                    "/tasks", json={"kind": "platform.ping", "params": params}, headers={"Idempotency-Key": key}
                )
            except httpx2.HTTPError as error:
                outcome = type(error).__name__
            else:
                outcome = answer.status_code
                if outcome == 503:
                    assert int(answer.headers["retry-after"]) >= 1
            with lock:
                outcomes[outcome] += 1
                if outcome == 202:
                    room.note(answer.json()["id"])

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(timeout=60)


def wait_for_end(room: Room, process: Part) -> int:
    room.eventually(lambda: process.poll() is not None, STOP_SECONDS)
    return int(process.returncode)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_api_that_stops_under_load_answers_accepted_connections(room: Room, workers: int) -> None:
    port = choose_port(None)
    stopping = room.start("api", "--port", str(port), "--workers", str(workers))
    first = room.client(f"http://127.0.0.1:{port}")
    room.eventually(lambda: room.answers(first))
    _, second = room.api()
    outcomes: Counter[Outcome] = Counter()
    with load(room, [first, second], outcomes):
        room.eventually(lambda: outcomes[202] > 100)
        stopping.send_signal(signal.SIGTERM)
        assert wait_for_end(room, stopping) in {0, -signal.SIGTERM}
        so_far = outcomes[202]
        room.eventually(lambda: outcomes[202] > so_far + 50)
    room.relay()
    room.worker(concurrency=8)

    assert {outcome for outcome in outcomes if isinstance(outcome, int)} <= {202, 503}, outcomes
    # A connection that the API has not accepted yet when it closes its socket is reset: usually one at most, on a busy
    # machine one of each client.
    assert sum(outcomes[reset] for reset in ("ReadError", "WriteError", "RemoteProtocolError")) <= CLIENTS, outcomes
    # Each committed task was answered, because no connection is closed after its request was accepted.
    assert room.ask("SELECT count(*) FROM tasks") == [(len(room.accepted),)]
    assert set(room.settle().values()) == {"succeeded"}


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def begin_upload(upload: socket.socket, head: str) -> None:
    """Send the head of an upload, and wait until the API reads the body."""
    upload.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert upload.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_an_api_that_stops_finishes_uploads_and_answers_waiters(room: Room) -> None:
    process, client = room.api()
    task_id = room.submit(client)
    key, port = client.headers["Authorization"], client.base_url.port
    boundary = uuid4().hex
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'.encode()
    body = part + b"hello " * 1000 + f"\r\n--{boundary}--\r\n".encode()
    head = f"POST /files HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: {len(body)}\r\n"
    head += f"Content-Type: multipart/form-data; boundary={boundary}\r\n"

    def ask(query: str = "") -> bytes:
        return f"GET /tasks/{task_id}{query} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n".encode()

    with connect(port) as waiter, connect(port) as idle, connect(port) as upload:
        waiter.sendall(ask("?wait=50"))
        idle.sendall(ask())
        assert b" 200 OK" in idle.recv(65_536)
        begin_upload(upload, head)
        upload.sendall(body[:100])
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        of_waiter = read_to_end(waiter)
        took = time.monotonic() - began
        room.eventually(lambda: refuses(port))
        idle.sendall(ask())
        upload.sendall(body[100:])
        of_idle, of_upload = read_to_end(idle), read_to_end(upload)

    assert b" 200 OK" in of_waiter
    assert took < 30
    assert b" 200 OK" in of_idle
    assert b"connection: close" in of_idle.lower()
    assert b" 202 Accepted" in of_upload
    room.note(json.loads(of_upload.partition(b"\r\n\r\n")[2])["id"])
    wait_for_end(room, process)
    room.relay()
    room.worker()
    assert set(room.settle().values()) == {"succeeded"}


def test_an_upload_longer_than_the_grace_gets_503(room: Room) -> None:
    process, client = room.api()
    key, port = client.headers["Authorization"], client.base_url.port
    head = f"POST /files HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 100000\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n"
    with connect(port) as upload:
        begin_upload(upload, head)
        upload.sendall(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhello')
        process.send_signal(signal.SIGTERM)
        answer = read_to_end(upload)

    assert b" 503 Service Unavailable" in answer
    assert b"retry-after: 1" in answer.lower()
    assert b'"/problems/unavailable"' in answer
    wait_for_end(room, process)
    assert room.ask("SELECT count(*) FROM files") == [(0,)]


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    while more := connection.recv(65_536):
        answer += more
    return answer


def test_a_relay_that_stops_under_load_publishes_every_marked_task(room: Room, client: httpx2.Client) -> None:
    relay = room.start("relay", **NO_REPUBLISHING)
    room.worker(concurrency=8)
    outcomes: Counter[Outcome] = Counter()
    with load(room, [client], outcomes):
        for number in range(3):
            so_far = outcomes[202]
            room.eventually(lambda begun=number + 1: room.parts.logs().count("relay_started") == begun)
            room.eventually(lambda seen=so_far: outcomes[202] > seen + 60)
            relay.send_signal(signal.SIGTERM)
            assert wait_for_end(room, relay) == 0
            relay = room.start("relay", **NO_REPUBLISHING)

    assert set(outcomes) == {202}
    # It would be published again after ten minutes.
    assert set(room.settle().values()) == {"succeeded"}
    assert room.ask("SELECT max(attempt) FROM tasks") == [(1,)]


def test_beats_that_are_replaced_under_load_submit_each_slot_once(room: Room, client: httpx2.Client) -> None:
    room.relay()
    room.worker(queues="files,maintenance", concurrency=4)
    beat = room.start("beat")
    made = "SELECT count(*) FROM tasks WHERE schedule_id IS NOT NULL"
    room.eventually(lambda: room.ask(made)[0][0] > 0)
    room.ask(
        "INSERT INTO schedules (id, name, kind, params, every_seconds) VALUES (%s, 'every', 'platform.ping', '{}', 1)",
        (uuid4(),),
    )
    slots = "SELECT count(*) FROM schedule_slots WHERE schedule_id = (SELECT id FROM schedules WHERE name = 'every')"
    with load(room, [client], Counter()):
        for number in range(3):
            seen = room.ask(slots)[0][0]
            room.eventually(lambda begun=number + 1: room.parts.logs().count("beat_started") == begun)
            room.eventually(lambda before=seen: room.ask(slots)[0][0] >= before + 2)
            following = room.start("beat")
            beat.send_signal(signal.SIGTERM)
            assert wait_for_end(room, beat) == 0
            beat = following
    beat.send_signal(signal.SIGTERM)
    wait_for_end(room, beat)

    each = (
        "SELECT count(*), count(DISTINCT s.slot), count(DISTINCT t.id), count(t.id) FROM schedule_slots s"
        " JOIN schedules x ON x.id = s.schedule_id AND x.name = 'every' LEFT JOIN tasks t ON t.id = s.task_id"
    )
    ((slots_done, distinct, tasks, found),) = room.ask(each)
    assert slots_done == distinct == tasks == found >= 6
    assert set(room.settle().values()) == {"succeeded"}


def test_a_worker_that_stops_finishes_short_tasks_and_requeues_long_ones(
    room: Room, client: httpx2.Client, settings: Settings
) -> None:
    room.start("relay", **NO_REPUBLISHING)
    worker = room.worker(queues="files", concurrency=4, **NO_REPUBLISHING)
    long = [room.submit(client, params={"sleep_ms": 12_000, "echo": "long"}) for _ in range(2)]
    for task_id in long:
        room.wait_for(task_id, "running")
    outcomes: Counter[Outcome] = Counter()
    with load(room, [client], outcomes, sleep_ms=20):
        room.eventually(lambda: outcomes[202] > 60)
        other = room.worker(queues="files", concurrency=4, **NO_REPUBLISHING)
        stopped_at = room.ask("SELECT clock_timestamp()")[0][0]
        worker.send_signal(signal.SIGTERM)
        assert wait_for_end(room, worker) == 0
        so_far = outcomes[202]
        room.eventually(lambda: outcomes[202] > so_far + 60)
    statuses = room.settle()

    assert set(statuses.values()) == {"succeeded"}
    assert other.poll() is None
    # Only attempts that ran to their end are counted, and no lease was lost.
    assert room.ask("SELECT max(attempt) FROM tasks") == [(1,)]
    assert room.ask("SELECT count(*) FROM task_events WHERE data->>'reason' = 'worker-lost'") == [(0,)]
    for task_id in long:
        history = room.ask(
            "SELECT data->>'status', at FROM task_events WHERE task_id = %s AND type = 'status' ORDER BY seq",
            (task_id,),
        )
        assert [status for status, _ in history] == ["queued", "running", "queued", "running", "succeeded"]
        handed_back_at, taken_up_at = history[2][1], history[3][1]
        assert (handed_back_at - stopped_at).total_seconds() > settings.shutdown_grace_seconds - 0.5
        # At once: they would be published again after ten minutes only.
        assert (taken_up_at - handed_back_at).total_seconds() < 60
