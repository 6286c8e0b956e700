from __future__ import annotations

import http.client
import smtplib
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from cli.local_stack.free_ports import choose_port, is_free


@dataclass
class Sink:
    directory: Path
    smtp_port: int
    page_port: int

    def get(self, path: str, host: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.page_port, timeout=30)
        connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{self.page_port}"})
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    directory = tmp_path_factory.mktemp("mail")
    sink = Sink(directory, choose_port(), choose_port())
    argv = [sys.executable, "-m", "cli.local_stack.mail_sink", "--directory", str(directory)]
    argv += ["--smtp-port", str(sink.smtp_port), "--page-port", str(sink.page_port)]
    process = subprocess.Popen(argv)
    deadline = time.monotonic() + 60
    while (is_free(sink.smtp_port) or is_free(sink.page_port)) and time.monotonic() < deadline:
        time.sleep(0.02)
    yield sink
    process.terminate()
    assert process.wait(60) == 0


def send(sink: Sink, subject: str, text: str, attachment: bytes | None = None, blind: str = "eve@example.com") -> None:
    message = EmailMessage()
    message["From"] = "ana@example.com"
    message["To"] = "bob@example.com"
    message["Subject"] = subject
    message.set_content(text)
    if attachment is not None:
        message.add_attachment(attachment, maintype="application", subtype="octet-stream", filename="bytes.bin")
    with smtplib.SMTP("127.0.0.1", sink.smtp_port) as smtp:
        smtp.send_message(message, to_addrs=["bob@example.com", blind])


def read_only_message(sink: Sink, subject: str) -> EmailMessage:
    messages = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in sink.directory.glob("*.eml")]
    (found,) = [message for message in messages if message["Subject"] == subject]
    return found


def test_a_message_is_one_file_with_the_attachment_byte_for_byte(sink: Sink) -> None:
    content = bytes(range(256)) * 1000

    send(sink, "With bytes", "hello", content)

    (attachment,) = read_only_message(sink, "With bytes").iter_attachments()
    assert attachment.get_payload(decode=True) == content
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in sink.directory.iterdir())
    assert not list(sink.directory.glob(".*"))


def test_the_envelope_tells_of_blind_copies(sink: Sink) -> None:
    send(sink, "Blind", "hello", blind="hidden@example.com")

    message = read_only_message(sink, "Blind")

    assert message["Return-Path"] == "<ana@example.com>"
    assert message.get_all("Delivered-To") == ["bob@example.com", "hidden@example.com"]


def test_the_page_shows_a_message_as_text_and_runs_nothing_of_it(sink: Sink) -> None:
    send(sink, "<script>alert(1)</script>", "<img src=x onerror=alert(2)>")
    name = max(path.name for path in sink.directory.glob("*.eml"))

    _, listing = sink.get("/")
    status, page = sink.get(f"/messages/{name}")

    assert status == 200
    for shown in (listing, page):
        assert "&lt;script&gt;" in shown
        assert "<script" not in shown
        assert "<img" not in page


@pytest.mark.parametrize(
    "path", ["/messages/../lock", "/messages/%2e%2e%2flock", "/messages/absent.eml", "/favicon.ico"]
)
def test_the_page_shows_nothing_but_messages(sink: Sink, path: str) -> None:
    assert sink.get(path)[0] == 404


def test_a_page_elsewhere_cannot_have_its_own_name_resolve_to_the_sink_and_read_the_mail(sink: Sink) -> None:
    assert sink.get("/", host="evil.example.com")[0] == 421
