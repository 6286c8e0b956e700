from __future__ import annotations

import http.client
import smtplib
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from cli.local_stack.child_process import wait_until
from cli.local_stack.free_ports import choose_port, is_free
from tests.conftest import PATIENCE_SECONDS


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
    assert wait_until(lambda: not is_free(sink.smtp_port) and not is_free(sink.page_port), PATIENCE_SECONDS)
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


def find_message(sink: Sink, subject: str) -> EmailMessage:
    messages = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in sink.directory.glob("*.eml")]
    (found,) = [message for message in messages if message["Subject"] == subject]
    return found


def test_a_message_is_stored_as_one_file_with_its_exact_bytes(sink: Sink) -> None:
    content = bytes(range(256)) * 1000

    send(sink, "With bytes", "hello", content)

    (attachment,) = find_message(sink, "With bytes").iter_attachments()
    assert attachment.get_payload(decode=True) == content
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in sink.directory.iterdir())
    assert not list(sink.directory.glob(".*"))


def test_a_stored_message_names_the_recipients_of_blind_copies(sink: Sink) -> None:
    send(sink, "Blind", "hello", blind="hidden@example.com")

    message = find_message(sink, "Blind")

    assert message["Return-Path"] == "<ana@example.com>"
    assert message.get_all("Delivered-To") == ["bob@example.com", "hidden@example.com"]


def test_the_page_shows_a_message_as_text_and_runs_no_script(sink: Sink) -> None:
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
def test_the_page_shows_only_messages(sink: Sink, path: str) -> None:
    assert sink.get(path)[0] == 404


def test_a_page_on_the_web_cannot_read_the_mail_by_dns_rebinding(sink: Sink) -> None:
    assert sink.get("/", host="evil.example.com")[0] == 421
