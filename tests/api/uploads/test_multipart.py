"""Receiving forms with one file: valid and invalid forms, limits, disconnects and storage errors."""

import asyncio
import errno
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

import api.uploads.multipart
from api.http.problems import Problem
from api.uploads.multipart import OVERHEAD_BYTES, ReceivedForm, receive_form
from shared.errors import StorageFull, StorageUnavailable
from shared.storage.object_store import ObjectStore, ObjectWriter
from shared.storage.open_store import open_object_store
from tests.conftest import PATIENCE_SECONDS, stays_true, wait_until_true

BOUNDARY = "----boundary-7f3a"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, value: bytes, file_name: str | None = None, *headers: str) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if file_name is not None:
        disposition += f'; filename="{file_name}"'
    head = "\r\n".join([f"--{BOUNDARY}", disposition, *headers, "", ""])
    return head.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def pieces_of(body: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def feed(chunks: Iterable[bytes], then: Callable[[], None] | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)
    if then is not None:
        then()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_object_store(f"file://{tmp_path}/objects")


@pytest.fixture
def objects(tmp_path: Path) -> Callable[[], list[Path]]:
    return lambda: [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


def receive(body: AsyncIterator[bytes] | bytes, store: ObjectStore | None, **changes: object) -> ReceivedForm:
    arguments: dict[str, Any] = {
        "content_type": CONTENT_TYPE,
        "content_length": None,
        "max_file_bytes": 100 << 20,
        "check_fields": lambda fields: None,
    }
    chunks = pieces_of(body) if isinstance(body, bytes) else body
    return asyncio.run(receive_form(chunks, store=store, **(arguments | changes)))


def refused(body: AsyncIterator[bytes] | bytes, store: ObjectStore, **changes: object) -> Problem:
    with pytest.raises(Problem) as caught:
        receive(body, store, **changes)
    return caught.value


@pytest.mark.parametrize("size", [1, 65_536, (1 << 20) - 1, 1 << 20, 5_000_001])
@pytest.mark.parametrize("piece", [1_000_003, 65_536])
def test_a_file_is_stored_as_it_was_sent(store: ObjectStore, size: int, piece: int) -> None:
    data = os.urandom(size)
    body = form(part("keep_for", b"60"), part("file", data, "data.bin", "Content-Type: text/lies"))
    received = receive(pieces_of(body, piece), store)
    assert received.fields == {"keep_for": "60"}
    file = received.file
    assert file is not None
    assert (file.name, file.size, file.sha256) == ("data.bin", size, hashlib.sha256(data).digest())
    path = store.local_path(file.storage_key)
    assert path is not None
    assert path.read_bytes() == data


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=300) | st.just(f"\r\n--{BOUNDARY}".encode()[:-1] * 5) | st.just(b"\r\n--\r\n-"),
    piece=st.integers(1, 90),
)
def test_a_file_is_the_same_in_whatever_pieces_its_body_arrives(
    data: bytes, piece: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_object_store(f"file://{tmp_path_factory.getbasetemp()}/cut")
    received = receive(pieces_of(form(part("file", data, "x"), part("keep_for", b"9")), piece), store)
    assert received.file is not None
    assert received.fields == {"keep_for": "9"}
    with store.open_reader(received.file.storage_key) as reader:
        assert reader.read() == data


def test_the_media_type_is_what_the_bytes_are(store: ObjectStore) -> None:
    photo = Path("tests/data/rocket.jpg").read_bytes()
    received = receive(form(part("file", photo, "report.pdf", "Content-Type: application/pdf")), store)
    assert received.file is not None
    assert received.file.media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\x.txt", "x.txt"),
        ("naïve.txt", "naïve.txt"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("", "file"),
        ("x" * 400 + ".csv", "x" * 146 + ".csv"),
    ],
)
def test_a_files_name_is_made_safe_and_never_the_key(store: ObjectStore, sent: str, kept: str) -> None:
    file = receive(form(part("file", b"x", sent)), store).file
    assert file is not None
    assert file.name == kept
    assert kept.split(".")[0] not in file.storage_key


def test_a_file_may_have_no_name_or_only_an_extended_one(store: ObjectStore) -> None:
    file = receive(form(part("file", b"x")), store).file
    assert file is not None and file.name == "file"
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=file; filename*=utf-8''na%C3%AFve.txt\r\n\r\n"
    file = receive(head.encode() + b"x\r\n" + form(), store).file
    assert file is not None and file.name == "naïve.txt"


def test_the_fields_before_the_file_are_checked_before_it_is_read(
    store: ObjectStore, objects: Callable[[], list[Path]]
) -> None:
    seen: list[Mapping[str, str]] = []

    def refuse(fields: Mapping[str, str]) -> None:
        seen.append(fields)
        raise Problem("validation")

    def never() -> None:
        raise AssertionError("the rest was read")

    body = part("task", b'{"kind": "x"}') + part("file", b"y" * 100, "x")
    refused(feed([body], never), store, check_fields=refuse)
    assert seen == [{"task": '{"kind": "x"}'}]
    assert objects() == []


def test_fields_behind_the_file_count_too(store: ObjectStore) -> None:
    assert receive(form(part("file", b"x"), part("task", b"{}")), store).fields == {"task": "{}"}


def test_a_form_without_a_file_has_none(store: ObjectStore, objects: Callable[[], list[Path]]) -> None:
    assert receive(form(part("keep_for", b"1")), store) == ReceivedForm({"keep_for": "1"}, None)
    assert receive(form(), store) == ReceivedForm({}, None)
    assert objects() == []


def test_without_a_store_the_file_is_checked_and_not_stored() -> None:
    received = receive(form(part("file", b"%PDF-1.7\n", "x")), None)
    assert received.file is not None
    assert received.file.media_type == "application/pdf"


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        (form(part("file", b"", "x")), "form:file", "empty_file"),
        (form(part("file", b"1"), part("file", b"2")), "form:file", "repeated"),
        (form(part("task", b"1"), part("task", b"2")), "form:task", "repeated"),
        (form(part("nope", b"1")), "form:nope", "extra_forbidden"),
        (form(part("näme", b"1")), "form:n\\xe4me", "extra_forbidden"),
        (form(part("file", b"eA==", "x", "Content-Transfer-Encoding: base64")), "form:file", "transfer_encoding"),
        (form(part("task", b"x" * ((1 << 20) + 1))), "form:task", "too_long"),
        (form(part("keep_for", b"1" * 65)), "form:keep_for", "too_long"),
        (form(part("task", b"\xff"), part("file", b"x")), "form:task", "not_utf8"),
        (part("file", b"x" * 3_000_000), "", "multipart_invalid"),
        (b"", "", "multipart_invalid"),
        (b"{}", "", "multipart_invalid"),
        (f"--{BOUNDARY}\r\nContent-Type: text/plain\r\n\r\nx\r\n".encode() + form(), "", "multipart_invalid"),
        (f"--{BOUNDARY}\r\n{'X' * 9000}: y\r\n\r\nx\r\n".encode() + form(), "", "multipart_invalid"),
    ],
)
def test_a_bad_form_is_refused_and_leaves_nothing(
    store: ObjectStore, objects: Callable[[], list[Path]], body: bytes, pointer: str, code: str
) -> None:
    problem = refused(body, store)
    assert problem.name == "validation"
    assert [(error.pointer, error.code) for error in problem.errors] == [(pointer, code)]
    assert objects() == []


def test_too_many_parts_are_refused(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.uploads.multipart, "FIELD_LIMITS", {f"f{n}": 10 for n in range(20)})
    assert refused(form(*(part(f"f{n}", b"1") for n in range(11))), store).errors[0].code == "multipart_invalid"


@pytest.mark.parametrize("content_type", [None, "application/json", "multipart/mixed; boundary=x"])
def test_another_content_type_is_unsupported(store: ObjectStore, content_type: str | None) -> None:
    assert refused(form(), store, content_type=content_type).name == "unsupported-media-type"


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=" + "x" * 300])
def test_a_missing_or_monstrous_boundary_is_refused(store: ObjectStore, content_type: str) -> None:
    assert refused(form(), store, content_type=content_type).errors[0].pointer == "header:Content-Type"


async def never_read() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


def test_a_declared_length_that_is_too_large_is_refused_before_a_byte_is_read(store: ObjectStore) -> None:
    problem = refused(never_read(), store, content_length=str(1000 + OVERHEAD_BYTES + 1), max_file_bytes=1000)
    assert problem.name == "too-large"
    assert problem.headers["Connection"] == "close"


def test_a_file_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(
    store: ObjectStore, objects: Callable[[], list[Path]]
) -> None:
    limit = 3_000_000
    file = receive(form(part("file", b"x" * limit)), store, max_file_bytes=limit).file
    assert file is not None
    store.delete([file.storage_key])
    chunks = [part("file", b"x" * (limit + 1))]
    assert (
        refused(feed(chunks, lambda: pytest.fail("the rest was read")), store, max_file_bytes=limit).name == "too-large"
    )
    assert objects() == []


def test_a_body_that_never_ends_is_refused_though_its_file_has_ended(store: ObjectStore) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield form(part("file", b"x"))
        while True:
            yield b"\r\n" * 32_768

    assert refused(endless(), store, max_file_bytes=1_000_000).name == "too-large"


def test_a_client_that_disconnects_leaves_no_object(store: ObjectStore, objects: Callable[[], list[Path]]) -> None:
    def hang_up() -> None:
        raise ClientDisconnect

    chunks = [part("file", b"x" * 3_000_000, "x")[:-2], b"y" * 2_000_000]
    assert refused(feed(chunks, hang_up), store).name == "bad-request"
    assert objects() == []


def test_an_upload_is_refused_when_its_client_sends_nothing_for_too_long(
    store: ObjectStore, objects: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.uploads.multipart, "IDLE_SECONDS", 0.05)

    async def silent() -> AsyncIterator[bytes]:
        yield part("file", b"x" * 3_000_000, "x")
        await asyncio.sleep(30)

    assert refused(silent(), store).name == "bad-request"
    assert objects() == []


class SlowStore:
    """A store in which each write and commit takes a given time."""

    def __init__(self, store: ObjectStore, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self.began = threading.Event()

    def open_writer(self, key: str) -> ObjectWriter:
        writer = self._store.open_writer(key)
        really_write, really_commit = writer.write, writer.commit

        def slow_write(data: bytes | bytearray | memoryview) -> None:
            self.began.set()
            time.sleep(self._seconds)
            really_write(data)

        def slow_commit() -> None:
            time.sleep(self._seconds)
            really_commit()

        writer.write = slow_write  # type: ignore[method-assign]
        writer.commit = slow_commit  # type: ignore[method-assign]
        return writer

    def delete(self, keys: list[str]) -> None:
        self._store.delete(keys)


@pytest.mark.parametrize("after_seconds", [0.02, 0.1, 0.15, 0.25])
def test_a_cancelled_upload_leaves_nothing_whatever_it_was_doing(
    store: ObjectStore, objects: Callable[[], list[Path]], after_seconds: float
) -> None:
    slow = SlowStore(store, 0.1)

    async def upload_and_cancel() -> None:
        upload = asyncio.ensure_future(
            receive_form(
                pieces_of(form(part("file", b"x" * 1_500_000))),
                content_type=CONTENT_TYPE,
                content_length=None,
                store=slow,  # type: ignore[arg-type]
                max_file_bytes=10 << 20,
                check_fields=lambda fields: None,
            )
        )
        assert await asyncio.to_thread(slow.began.wait, PATIENCE_SECONDS)
        await asyncio.sleep(after_seconds)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload

    asyncio.run(upload_and_cancel())
    wait_until_true(lambda: objects() == [])
    # The thread may still commit the object, and would then delete it: a later look must find nothing either.
    assert stays_true(lambda: objects() == [], seconds=0.3)


def test_a_full_disk_raises_storage_full_and_deletes_what_was_written(
    store: ObjectStore, objects: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    really, written = os.write, 0

    def fill_up(descriptor: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 2_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr("shared.storage.local_objects.os.write", fill_up)
        with pytest.raises(StorageFull):
            receive(form(part("file", b"x" * 6_000_000)), store)
    assert objects() == []


def test_an_error_of_the_storage_at_the_end_of_an_upload_is_raised(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("shared.storage.local_objects.os.fsync", fail)
    with pytest.raises(StorageUnavailable):
        receive(form(part("file", b"x")), store)
    assert store.abort_abandoned(datetime.now(UTC) + timedelta(minutes=1)) == 0


def test_memory_is_bounded_when_the_storage_is_slow(store: ObjectStore) -> None:
    slow = SlowStore(store, 0.02)
    taken = 0
    most_ahead = 0
    written = 0
    really = slow.open_writer

    def counting(key: str) -> ObjectWriter:
        writer = really(key)
        write = writer.write

        def count(data: bytes | bytearray | memoryview) -> None:
            nonlocal written
            write(data)
            written += len(data)

        writer.write = count  # type: ignore[method-assign]
        return writer

    slow.open_writer = counting  # type: ignore[method-assign]

    async def fast_client() -> AsyncIterator[bytes]:
        nonlocal taken, most_ahead
        yield part("file", b"")[:-2]
        for _ in range(160):
            taken += 65_536
            most_ahead = max(most_ahead, taken - written)
            yield b"x" * 65_536
        yield b"\r\n" + form()

    receive(fast_client(), slow)  # type: ignore[arg-type]
    assert most_ahead <= 3 << 20
