"""What callers do, from the request to the end of the task, on real parts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as email_policy
from typing import Any, Protocol, cast

import httpx2
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from PIL import Image

from cli.local_stack.free_ports import choose_port
from tests.conftest import DATA, PATIENCE_SECONDS, Api, Eventually, Parts


class Sink:
    """A handler of aiosmtpd that keeps every message."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.messages.append(cast(EmailMessage, message_from_bytes(envelope.content, policy=email_policy)))
        return "250 Kept"


class Follow(Protocol):
    """The fixture `follow`."""

    def __call__(self, answer: httpx2.Response) -> dict[str, Any]:
        """Wait until the task of an answer is done, and return the task."""


@pytest.fixture
def sink() -> Iterator[tuple[Sink, int]]:
    handler = Sink()
    controller = Controller(handler, hostname="127.0.0.1", port=choose_port(), ready_timeout=PATIENCE_SECONDS)
    controller.start()
    yield handler, controller.port
    controller.stop()


@pytest.fixture
def client(api: Api) -> httpx2.Client:
    return api.client("operator", "operator")


@pytest.fixture
def whole_engine(parts: Parts, sink: tuple[Sink, int]) -> Parts:
    parts.start("relay")
    mail = {"TASKMILL_SMTP_URL": f"smtp://127.0.0.1:{sink[1]}"}
    parts.start("worker", "--queues", "files,reports,email,maintenance", "--concurrency", "2", environment=mail)
    return parts


@pytest.fixture
def follow(client: httpx2.Client, parts: Parts) -> Follow:
    def follow(answer: httpx2.Response) -> dict[str, Any]:
        assert answer.status_code == 202, answer.text
        task = client.get(answer.headers["location"], params={"wait": 60}).json()
        assert task["done"], parts.logs()[-4000:]
        return dict(task)

    return follow


def _upload(
    client: httpx2.Client,
    name: str,
    media_type: str,
    task: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    data = {"task": json.dumps(task)} if task else {}
    files = {"file": (name, (DATA / name).read_bytes(), media_type)}
    return client.post("/files", data=data, files=files, headers=headers)


def test_the_variants_of_an_image_can_be_downloaded(client: httpx2.Client, whole_engine: Parts, follow: Follow) -> None:
    variants = [
        {"name": "small", "width": 100, "format": "webp"},
        {"name": "square", "width": 64, "height": 64, "fit": "cover", "format": "png"},
    ]

    task = follow(
        _upload(client, "rocket.jpg", "image/jpeg", {"kind": "files.make_images", "params": {"variants": variants}})
    )

    assert (task["status"], task["error"], task["attempt"]) == ("succeeded", None, 1)
    assert [artifact["name"] for artifact in task["artifacts"]] == ["small.webp", "square.png"]
    sizes = []
    for artifact in task["artifacts"]:
        content = client.get(artifact["url"])
        assert content.status_code == 200
        assert len(content.content) == artifact["size"]
        sizes.append(Image.open(io.BytesIO(content.content)).size)
    assert sizes[0][0] == 100
    assert sizes[1] == (64, 64)


def test_a_report_of_a_table_is_emailed_as_an_attachment(
    client: httpx2.Client, whole_engine: Parts, follow: Follow, sink: tuple[Sink, int]
) -> None:
    table = follow(_upload(client, "penguins.csv", "text/csv"))
    file_id = table["params"]["file_id"]

    report = follow(
        client.post(
            "/reports",
            json={
                "sources": [{"name": "penguins", "file_id": file_id}],
                "query": "SELECT species, count(*) AS n FROM penguins GROUP BY species ORDER BY species",
                "formats": ["csv"],
            },
        )
    )
    (made,) = report["artifacts"]
    sent = follow(
        client.post(
            "/emails",
            json={
                "to": ["someone@example.com"],
                "subject": "The report",
                "text": "Here it is.",
                "attachments": [{"file_id": made["id"], "name": "penguins.csv"}],
            },
        )
    )

    assert table["result"]["media_type"] == "text/csv"
    assert (report["status"], report["result"]["rows"]) == ("succeeded", 3)
    assert sent["result"]["recipients"][0]["status"] == "accepted"
    (message,) = sink[0].messages
    (attachment,) = message.iter_attachments()
    assert attachment["Content-Type"] == 'text/csv; charset="utf-8"'
    assert attachment.get_filename() == "penguins.csv"
    content = attachment.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert content == client.get(made["url"]).content
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert {row["species"]: int(row["n"]) for row in rows} == {"Adelie": 152, "Chinstrap": 68, "Gentoo": 124}


def test_the_tasks_of_a_batch_are_counted_by_status(
    client: httpx2.Client, engine_room: Parts, eventually: Eventually
) -> None:
    tasks = [{"kind": "platform.ping", "params": {"echo": str(number)}} for number in range(50)]

    answer = client.post("/tasks/batch", json={"tasks": tasks})

    assert answer.status_code == 202
    location = answer.headers["location"]
    eventually(lambda: client.get(location).json()["counts"] == {"succeeded": 50})
    assert client.get(location).json()["total"] == 50


def test_a_cancelled_task_stops_and_can_be_retried(
    client: httpx2.Client, engine_room: Parts, eventually: Eventually
) -> None:
    answer = client.post("/tasks", json={"kind": "platform.ping", "params": {"sleep_ms": 60_000}})
    location = answer.headers["location"]
    eventually(lambda: client.get(location).json()["status"] == "running")

    assert client.post(f"{location}/cancel").status_code == 202

    cancelled = client.get(location, params={"wait": 60}).json()
    assert (cancelled["status"], cancelled["error"]["type"]) == ("cancelled", "/problems/cancelled")
    assert client.post(f"{location}/cancel").status_code == 409
    assert client.post(f"{location}/retry").status_code == 202
    eventually(lambda: client.get(location).json()["status"] == "running")
    client.post(f"{location}/cancel")


def test_an_upload_sent_twice_with_one_key_is_done_once(
    client: httpx2.Client, whole_engine: Parts, follow: Follow
) -> None:
    headers = {"Idempotency-Key": "once"}

    first = _upload(client, "rocket.jpg", "image/jpeg", headers=headers)
    second = _upload(client, "rocket.jpg", "image/jpeg", headers=headers)

    assert second.status_code == 202
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["idempotency-replayed"] == "true"
    assert follow(first)["result"]["media_type"] == "image/jpeg"
    assert len(client.get("/files").json()["items"]) == 1
