"""Tests of both implementations of the storage port: a folder, and a bucket on a real S3 server that checks signatures."""

import errno
import os
import secrets
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest
from botocore.exceptions import ClientError

from cli.local_stack.child_process import wait_until
from cli.local_stack.free_ports import choose_port, is_free
from shared.errors import ConfigurationError, ObjectMissing, StorageFull, StorageUnavailable
from shared.storage.local_objects import LocalObjects
from shared.storage.object_store import ObjectStore, list_key_folders, new_object_key
from shared.storage.open_store import open_object_store
from shared.storage.s3_objects import S3Objects, raising_storage_errors
from tests.conftest import PATIENCE_SECONDS

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "a-secret-that-only-this-test-knows"
LARGE_BYTES = 17 * (1 << 20) + 12_345
"""Two whole parts of a multipart upload, and some."""


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    port = choose_port()
    environment = {"PATH": os.defpath, "NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    with (folder / "server.log").open("wb") as log:
        arguments = ["serve", "--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(
            [sys.executable, "-m", "nanio", *arguments, "--no-access-log", "--log-level", "warning"],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        assert wait_until(lambda: not is_free(port) or server.poll() is not None, 90)
        assert server.poll() is None, (folder / "server.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> str:
    client = boto3.client(
        "s3",
        endpoint_url=s3_server,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    client.create_bucket(Bucket="taskmill-test")
    return "taskmill-test"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.fixture
def s3_store(s3_server: str, bucket: str, credentials: None) -> ObjectStore:
    prefix = "files/" + secrets.token_hex(4)
    return open_object_store(f"s3://{bucket}/{prefix}?endpoint_url={quote(s3_server, safe='')}&region=us-east-1")


@pytest.fixture
def local_store(tmp_path: Path) -> ObjectStore:
    return open_object_store(f"file://{tmp_path}/objects")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    found: ObjectStore = request.getfixturevalue({"folder": "local_store", "s3": "s3_store"}[request.param])
    return found


def put(store: ObjectStore, data: bytes, key: str | None = None) -> str:
    key = key or new_object_key()
    with store.open_writer(key) as writer:
        writer.write(data)
        writer.commit()
    return key


def read(store: ObjectStore, key: str, start: int = 0, length: int | None = None) -> bytes:
    with store.open_reader(key, start, length) as reader:
        return reader.read()


def list_keys(store: ObjectStore) -> list[str]:
    return sorted(found.key for found in store.list_objects(soon()))


def assert_nothing_is_left(store: ObjectStore) -> None:
    assert list_keys(store) == []
    assert store.abort_abandoned(soon()) == 0


@pytest.mark.parametrize("size", [0, 1, 70_000, LARGE_BYTES])
def test_what_was_written_is_read_back(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    key = new_object_key()
    with store.open_writer(key) as writer:
        for start in range(0, size, 1_000_000):
            writer.write(memoryview(data)[start : start + 1_000_000])
        writer.commit()
    assert store.size(key) == size
    assert read(store, key) == data
    assert list_keys(store) == [key]
    assert store.abort_abandoned(soon()) == 0


def test_one_write_may_be_larger_than_a_part(store: ObjectStore) -> None:
    data = os.urandom(LARGE_BYTES)
    assert read(store, put(store, data)) == data


def test_nothing_is_visible_before_the_commit(store: ObjectStore) -> None:
    key = new_object_key()
    with store.open_writer(key) as writer:
        writer.write(os.urandom(9 << 20))
        assert list_keys(store) == []
        with pytest.raises(ObjectMissing):
            store.size(key)
        writer.commit()
    assert store.size(key) == 9 << 20


@pytest.mark.parametrize("size", [10, 9 << 20])
def test_an_aborted_object_leaves_nothing(store: ObjectStore, size: int) -> None:
    writer = store.open_writer(new_object_key())
    writer.write(os.urandom(size))
    writer.abort()
    writer.abort()
    assert_nothing_is_left(store)


def test_a_writer_aborts_when_its_block_raises(store: ObjectStore) -> None:
    with pytest.raises(ZeroDivisionError), store.open_writer(new_object_key()) as writer:
        writer.write(os.urandom(9 << 20))
        raise ZeroDivisionError
    assert_nothing_is_left(store)


@pytest.mark.parametrize("size", [0, 5, 9 << 20])
def test_a_file_is_put_whole(store: ObjectStore, tmp_path: Path, size: int) -> None:
    path = tmp_path / "made-by-a-handler.bin"
    path.write_bytes(data := os.urandom(size))
    long_ago = time.time() - 90 * 86_400
    os.utime(path, (long_ago, long_ago))
    key = new_object_key()
    store.put_file(key, path)
    store.put_file(key, path)
    path.unlink()
    assert read(store, key) == data
    assert store.abort_abandoned(soon()) == 0
    (found,) = store.list_objects(soon())
    assert found.modified_at > datetime.now(UTC) - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (8, 100, b"89"),
        (9, 1, b"9"),
        (10, None, b""),
        (25, 5, b""),
        (0, 0, b""),
    ],
)
def test_a_range_is_read(store: ObjectStore, start: int, length: int | None, expected: bytes) -> None:
    key = put(store, b"0123456789")
    assert read(store, key, start, length) == expected


def test_an_object_is_read_in_pieces(store: ObjectStore) -> None:
    data = os.urandom(1_000_000)
    key = put(store, data)
    with store.open_reader(key, 10, 900_000) as reader:
        pieces = list(iter(lambda: reader.read(100_000), b""))
    assert b"".join(pieces) == data[10:900_010]
    assert max(map(len, pieces)) <= 100_000


def test_only_the_owner_can_read_a_fetched_file(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    target = tmp_path / "input.bin"
    store.fetch(put(store, data), target)
    assert target.read_bytes() == data
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_failed_fetch_leaves_no_file_and_overwrites_none(store: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "input.bin"
    with pytest.raises(ObjectMissing):
        store.fetch(new_object_key(), target)
    assert not target.exists()
    target.write_text("mine")
    with pytest.raises(FileExistsError):
        store.fetch(put(store, b"theirs"), target)
    assert target.read_text() == "mine"


def test_every_method_that_reads_raises_for_a_missing_object(store: ObjectStore) -> None:
    key = new_object_key()
    asked: list[Callable[[], object]] = [
        lambda: store.size(key),
        lambda: store.open_reader(key),
        lambda: store.open_reader(key, 5),
        lambda: store.open_reader(key, 0, 0),
    ]
    for ask in asked:
        with pytest.raises(ObjectMissing) as caught:
            ask()
        assert caught.value.key == key


def test_deleting_a_missing_object_is_no_error(store: ObjectStore) -> None:
    kept, one, two = (put(store, b"x") for _ in range(3))
    store.delete([])
    store.delete([one])
    store.delete([one])
    store.delete([one, two, new_object_key()])
    assert list_keys(store) == [kept]


def test_objects_older_than_a_time_are_listed(store: ObjectStore) -> None:
    began = datetime.now(UTC)
    key = put(store, b"x")
    ended = datetime.now(UTC)

    assert list(store.list_objects(began - timedelta(minutes=1))) == []
    (found,) = store.list_objects(soon())
    assert found.key == key
    # S3 has whole seconds.
    assert began - timedelta(seconds=1) <= found.modified_at <= ended


@pytest.mark.parametrize(
    "foreign",
    ["report.pdf", "photos/2024/cat.jpg", "ab/notes.txt", "ab/" + "0" * 35, "abc/" + "0" * 36, "AB/" + "0" * 36],
)
def test_only_objects_with_generated_keys_are_listed(store: ObjectStore, foreign: str) -> None:
    # Listed objects without a row are deleted, and the folder or bucket may also contain files of other programs.
    put(store, b"theirs", foreign)
    key = put(store, b"ours")
    assert list_keys(store) == [key]


def test_abandoned_writes_are_deleted_by_age(store: ObjectStore) -> None:
    writer = store.open_writer(new_object_key())
    writer.write(os.urandom(9 << 20))
    assert store.abort_abandoned(datetime.now(UTC) - timedelta(minutes=1)) == 0
    assert store.abort_abandoned(soon()) == 1
    assert store.abort_abandoned(soon()) == 0
    with pytest.raises((ObjectMissing, StorageUnavailable)):
        writer.commit()
    writer.abort()
    assert_nothing_is_left(store)


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".incoming/x", "a/.b", "a\0b", "a" * 600]
)
def test_a_key_that_is_not_a_plain_relative_path_is_refused(store: ObjectStore, tmp_path: Path, key: str) -> None:
    asked: list[Callable[[], object]] = [
        lambda: store.open_writer(key),
        lambda: store.open_reader(key),
        lambda: store.local_path(key),
        lambda: store.delete([key]),
        lambda: store.size(key),
        lambda: store.put_file(key, tmp_path / "x"),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match="not an object key"):
            ask()


def test_many_threads_write_at_once(store: ObjectStore) -> None:
    written: dict[str, bytes] = {}

    def write() -> None:
        for _ in range(5):
            data = os.urandom(1000)
            written[put(store, data)] = data

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert len(written) == 30
    assert list_keys(store) == sorted(written)
    assert all(read(store, key) == data for key, data in written.items())


def test_a_working_store_passes_its_check(store: ObjectStore) -> None:
    store.check()
    assert_nothing_is_left(store)


def test_keys_are_random_and_spread_over_folders() -> None:
    keys = {new_object_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert len({key.split("/")[0] for key in keys}) > 200


def test_a_walk_begins_at_a_random_folder_and_visits_each_once() -> None:
    walks = [list_key_folders() for _ in range(100)]
    assert all(len(walk) == 256 and set(walk) == set(walks[0]) for walk in walks)
    assert len({walk[0] for walk in walks}) > 20


def test_only_the_owner_can_read_the_folder_and_its_content(local_store: ObjectStore, tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.touch(mode=0o666)
    keys = [put(local_store, b"x"), new_object_key()]
    local_store.put_file(keys[1], open_to_all)
    root = tmp_path / "objects"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())
    assert local_store.local_path(keys[0]) == root / keys[0]


def test_an_object_is_synced_before_it_is_renamed(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_object_key()
    target = tmp_path / "objects" / key
    seen: list[tuple[str, bool]] = []
    really = os.fsync

    def watch(descriptor: int) -> None:
        seen.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), target.exists()))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    put(local_store, b"x", key)
    incoming = str(tmp_path / "objects" / ".incoming")
    assert seen[0][0].startswith(incoming)
    assert seen[1:] == [(str(tmp_path / "objects"), False), (str(target.parent), True)]


def test_links_and_folders_are_not_objects(local_store: ObjectStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for you")
    link = tmp_path / "link"
    link.symlink_to(secret)
    for path in (link, tmp_path):
        with pytest.raises(ObjectMissing):
            local_store.put_file(new_object_key(), path)
    (tmp_path / "objects" / "planted").symlink_to(secret)
    for ask in (local_store.open_reader, local_store.local_path, local_store.size):
        with pytest.raises(ObjectMissing):
            ask("planted")
    assert_nothing_is_left(local_store)


def test_a_file_on_another_file_system_is_copied(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "elsewhere"
    path.write_bytes(b"x" * 3_000_000)
    key = new_object_key()
    local_store.put_file(key, path)
    assert read(local_store, key) == path.read_bytes()
    assert local_store.abort_abandoned(soon()) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four mebibytes, which root can mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a file system; the next test simulates the full disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.needs_program("mount", debian="mount")
def test_a_really_full_disk_raises_storage_full_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = open_object_store(f"file://{small_disk}/objects")
    with pytest.raises(StorageFull), store.open_writer(new_object_key()) as writer:
        for _ in range(8):
            writer.write(os.urandom(1 << 20))
    large = tmp_path / "large"
    large.write_bytes(os.urandom(8 << 20))
    with pytest.raises(StorageFull):
        store.put_file(new_object_key(), large)
    assert_nothing_is_left(store)
    put(store, os.urandom(2 << 20))
    store.check()


def test_a_full_disk_raises_storage_full_and_leaves_nothing(
    local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.write

    def full_after_ten_bytes(descriptor: int, data: bytes) -> int:
        if len(data) <= 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(descriptor, data[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after_ten_bytes)
        with pytest.raises(StorageFull), local_store.open_writer(new_object_key()) as writer:
            writer.write(b"0123456789abc")
    assert_nothing_is_left(local_store)


def test_a_missing_folder_fails_the_check(local_store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "objects").rename(tmp_path / "away")
    with pytest.raises(StorageUnavailable):
        local_store.check()


def test_files_of_other_programs_in_the_folder_are_not_listed(local_store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "objects" / "lost+found").mkdir()
    (tmp_path / "objects" / ".hidden").touch()
    (tmp_path / "objects" / "Thumbs db").touch()
    assert list_keys(local_store) == []


def test_prefixes_of_one_bucket_are_separate(s3_server: str, bucket: str, credentials: None) -> None:
    one, two = (
        open_object_store(f"s3://{bucket}/{name}?endpoint_url={quote(s3_server, safe='')}") for name in ("one", "one2")
    )
    put(two, b"x")
    with two.open_writer(new_object_key()) as writer:
        writer.write(os.urandom(9 << 20))
        assert_nothing_is_left(one)


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_refused_by_the_server(
    s3_store: ObjectStore, s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    key = put(s3_store, b"x")
    monkeypatch.setenv(wrong, "wrong")
    stranger = open_object_store(f"s3://{bucket}/files?endpoint_url={quote(s3_server, safe='')}")
    with pytest.raises(StorageUnavailable):
        stranger.check()
    with pytest.raises(StorageUnavailable):
        put(stranger, b"x")
    with pytest.raises(StorageUnavailable):
        stranger.delete([key])


def test_a_missing_bucket_is_unavailable_and_not_a_missing_object(s3_server: str, credentials: None) -> None:
    store = open_object_store(f"s3://no-such-bucket?endpoint_url={quote(s3_server, safe='')}")
    with pytest.raises(StorageUnavailable):
        store.check()
    with pytest.raises(StorageUnavailable):
        put(store, b"x")


def test_a_server_that_is_down_is_unavailable_within_seconds(credentials: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        store = open_object_store(f"s3://bucket?endpoint_url=http://127.0.0.1:{taken.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(StorageUnavailable):
            store.check()
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("InsufficientStorage", 507, StorageFull),
        ("", 507, StorageFull),
        ("QuotaExceeded", 403, StorageFull),
        ("XMinioStorageFull", 507, StorageFull),
        ("NoSuchKey", 404, ObjectMissing),
        ("404", 404, ObjectMissing),
        ("NoSuchBucket", 404, StorageUnavailable),
        ("AccessDenied", 403, StorageUnavailable),
        ("SlowDown", 503, StorageUnavailable),
    ],
)
def test_errors_of_the_server_become_storage_errors(code: str, status: int, expected: type[Exception]) -> None:
    answer = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]
    with pytest.raises(expected), raising_storage_errors("key"):
        raise answer


def test_an_upload_is_committed_when_only_the_response_is_lost(s3_store: ObjectStore) -> None:
    key = new_object_key()
    assert isinstance(s3_store, S3Objects)
    client = s3_store.client
    with s3_store.open_writer(key) as writer:
        writer.write(data := os.urandom(9 << 20))
        really = client.complete_multipart_upload

        def lose_the_answer(**arguments: object) -> object:
            really(**arguments)  # type: ignore[arg-type]
            return really(**arguments)  # type: ignore[arg-type]

        client.complete_multipart_upload = lose_the_answer  # type: ignore[assignment,method-assign]
        writer.commit()
    assert read(s3_store, key) == data


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "file:///"),
        ("/srv/files", "file:///"),
        ("ftp://host/x", "begins with ftp"),
        ("file://relative/path", "three slashes"),
        ("file:///", "root of the file system"),
        ("s3://", "no bucket"),
        ("s3://user:secret@bucket", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket?regoin=x", "unknown option regoin"),
        ("s3://bucket?endpoint_url=localhost:9000", "https://"),
        ("s3://bucket?addressing_style=odd", "path, virtual or auto"),
        ("s3://bucket/../x", "prefix"),
    ],
)
def test_the_error_of_a_wrong_url_says_what_to_write(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_object_store(url)
    assert "secret" not in str(caught.value).replace("SECRET", "")


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        LocalObjects(tmp_path / "file" / "objects")
