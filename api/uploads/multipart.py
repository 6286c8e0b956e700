"""Receives a form with one file (multipart/form-data, RFC 7578) and streams the file into the storage.

The form is parsed on the event loop, which only searches for the boundary. The file's bytes are collected into pieces of
a mebibyte. A thread hashes and writes one piece while the next arrives, so memory is bounded and threads are called rarely.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.requests import ClientDisconnect

from api.http.problems import Problem, invalid
from api.storage_threads import in_storage_thread, start_in_storage_thread
from api.uploads.file_names import decode_text, read_file_name
from shared.errors import StorageUnavailable
from shared.media_types import HEAD_BYTES, detect_media_type, safe_file_name
from shared.storage.object_store import ObjectStore, ObjectWriter, new_object_key

FILE_FIELD: Final = "file"
FIELD_LIMITS: Final[Mapping[str, int]] = {"task": 1 << 20, "keep_for": 64}
"""The fields that a form may have besides the file, and the maximum size of each in bytes."""

MAX_PARTS: Final = 10
OVERHEAD_BYTES: Final = 2 << 20
"""How many bytes a form may have besides its file: boundaries, headers, other fields."""
COLLECTED_BYTES: Final = 1 << 20
IDLE_SECONDS: Final = 60.0
"""How long a client may send nothing before the upload is refused."""

_PLAIN_ENCODINGS: Final = frozenset({"", "7bit", "8bit", "binary"})


@dataclass(frozen=True)
class ReceivedFile:
    """A stored file to whose key no row refers yet. The caller inserts a row, or deletes the object.

    Without a store, the file was only checked and there is no object under the key.
    """

    storage_key: str
    name: str
    media_type: str
    size: int
    sha256: bytes


@dataclass(frozen=True)
class ReceivedForm:
    """The fields of a form as text, and its file, or None if it has none."""

    fields: Mapping[str, str]
    file: ReceivedFile | None


async def receive_form(
    body: AsyncIterator[bytes],
    *,
    content_type: str | None,
    content_length: str | None,
    store: ObjectStore | None,
    max_file_bytes: int,
    check_fields: Callable[[Mapping[str, str]], None],
) -> ReceivedForm:
    """Receive a form. Without a `store`, its file is read and checked, and not stored.

    `check_fields` is called with the fields that precede the file as soon as the file begins, and may raise a problem.
    Raises the problems `unsupported-media-type`, `too-large` (the rest of the body is not read) and `validation`, and
    `bad-request` when the client disconnected; and the errors of the storage. After an error, nothing stays in the storage.
    """
    if (
        content_length is not None
        and content_length.isdigit()
        and int(content_length) > max_file_bytes + OVERHEAD_BYTES
    ):
        raise too_large(max_file_bytes)
    sink = _FileSink(store)
    form = _FormReader(_boundary(content_type), max_file_bytes, check_fields)
    try:
        await _read_body(body, form, sink)
        if form.file_name is None:
            return ReceivedForm(form.decoded_fields(), None)
        if form.file_size == 0:
            raise invalid(f"form:{FILE_FIELD}", "empty_file", "The file is empty")
        fields = form.decoded_fields()
        await in_storage_thread(sink.finish, form.take_collected())
    except BaseException as error:
        tidied = start_in_storage_thread(sink.discard)
        if isinstance(error, Exception):
            # An object that cannot be deleted now is found later as an orphan. The error that ended the upload is raised.
            with suppress(StorageUnavailable):
                await asyncio.shield(asyncio.wrap_future(tidied))
        raise
    return ReceivedForm(fields, sink.received_file(form.file_name))


def too_large(most_bytes: int) -> Problem:
    """Return the problem for an upload that is too large. The rest of it is not read, so the connection must be closed."""
    return Problem("too-large", f"An upload has at most {most_bytes} bytes.", headers={"Connection": "close"})


async def _read_body(body: AsyncIterator[bytes], form: _FormReader, sink: _FileSink) -> None:
    """Pass the whole body to the form, and the collected bytes to the sink, which writes them while more arrive."""
    clock = asyncio.get_running_loop()
    writing: asyncio.Future[None] | None = None
    received = 0
    try:
        async with asyncio.timeout(IDLE_SECONDS) as patience:
            async for chunk in body:
                received += len(chunk)
                if received > form.max_file_bytes + OVERHEAD_BYTES:
                    raise too_large(form.max_file_bytes)
                form.feed(chunk)
                if form.collected_bytes >= COLLECTED_BYTES:
                    # The time that the storage takes does not count as idle time of the client.
                    patience.reschedule(None)
                    if writing is not None:
                        await writing
                    writing = asyncio.wrap_future(start_in_storage_thread(sink.write, form.take_collected()))
                patience.reschedule(clock.time() + IDLE_SECONDS)
    except Problem as problem:
        # The rest of the body is not read, so that no other request can follow on this connection.
        problem.headers.setdefault("Connection", "close")
        raise
    except ClientDisconnect:
        raise Problem("bad-request", "The client closed the connection before the end of the body.") from None
    except TimeoutError:
        if not patience.expired():
            raise
        message = f"Nothing arrived for {IDLE_SECONDS:.0f} seconds."
        raise Problem("bad-request", message, headers={"Connection": "close"}) from None
    finally:
        # An error of the body takes precedence over one of writing. `discard` waits for a write by the sink's lock.
        if writing is not None and writing.done() and not writing.cancelled():
            writing.exception()
    if writing is not None:
        await writing
    form.require_end()


def _boundary(content_type: str | None) -> bytes:
    media_type, options = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        raise Problem("unsupported-media-type", "Send multipart/form-data, with the file as the part `file`.")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise invalid("header:Content-Type", "boundary", "multipart/form-data needs a boundary of 1 to 200 characters")
    return boundary


def _malformed(message: str) -> Problem:
    return invalid("", "multipart_invalid", message)


@dataclass
class _Part:
    headers: dict[str, bytes] = field(default_factory=dict)
    name: str | None = None


class _FormReader:
    """Parses a form. Keeps its small fields, and collects the file's bytes until they are taken."""

    def __init__(self, boundary: bytes, max_file_bytes: int, check_fields: Callable[[Mapping[str, str]], None]) -> None:
        self.max_file_bytes = max_file_bytes
        self.file_name: str | None = None
        self.file_size = 0
        self._check_fields = check_fields
        self._collected = bytearray()
        self._fields: dict[str, bytearray] = {}
        self._part = _Part()
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body. Raises a problem at the first fault."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _malformed("The body is not well-formed multipart/form-data") from None

    @property
    def collected_bytes(self) -> int:
        """How many of the file's bytes are not taken yet."""
        return len(self._collected)

    def take_collected(self) -> bytearray:
        """Return the file's bytes that have arrived since the last call."""
        taken, self._collected = self._collected, bytearray()
        return taken

    def require_end(self) -> None:
        """Raise a problem unless the closing boundary has arrived."""
        if self._parser.state != MultipartState.END:
            raise _malformed("The body ends before the closing boundary")

    def decoded_fields(self) -> dict[str, str]:
        """Return the fields that have arrived as text."""
        fields = {}
        for name, value in self._fields.items():
            try:
                fields[name] = value.decode()
            except UnicodeDecodeError:
                raise invalid(f"form:{name}", "not_utf8", "The field is not UTF-8") from None
        return fields

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _malformed(f"A form has at most {MAX_PARTS} parts")
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._part.headers[self._header_name.decode("latin-1").lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        headers = self._part.headers
        disposition = headers.get("content-disposition", b"").decode("latin-1")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _malformed("Each part needs the header Content-Disposition: form-data with a name")
        name = self._part.name = decode_text(options[b"name"])
        shown = name.encode("ascii", "backslashreplace").decode()[:100]
        if name != FILE_FIELD and name not in FIELD_LIMITS:
            raise invalid(f"form:{shown}", "extra_forbidden", "Unknown field")
        if name in self._fields or (name == FILE_FIELD and self.file_name is not None):
            raise invalid(f"form:{name}", "repeated", "The field must be given once")
        encoding = headers.get("content-transfer-encoding", b"").decode("latin-1").strip().lower()
        if encoding not in _PLAIN_ENCODINGS:
            raise invalid(f"form:{name}", "transfer_encoding", "Send the part as it is, without a transfer encoding")
        if name == FILE_FIELD:
            self.file_name = safe_file_name(read_file_name(disposition, options))
            self._check_fields(self.decoded_fields())
        else:
            self._fields[name] = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        name = self._part.name
        if name is None:
            return
        if name == FILE_FIELD:
            self.file_size += end - start
            if self.file_size > self.max_file_bytes:
                raise too_large(self.max_file_bytes)
            self._collected += memoryview(data)[start:end]
            return
        value = self._fields[name]
        value += data[start:end]
        if len(value) > FIELD_LIMITS[name]:
            raise invalid(f"form:{name}", "too_long", f"The field has at most {FIELD_LIMITS[name]} bytes")


class _FileSink:
    """Writes a file's bytes into the storage, and computes their size, type and hash. Threads call it, one at a time.

    After `discard`, nothing stays in the storage, even if an earlier call still runs or a later one writes.
    """

    def __init__(self, store: ObjectStore | None) -> None:
        self._store = store
        self._key = new_object_key()
        self._lock = threading.Lock()
        self._writer: ObjectWriter | None = None
        self._hash = hashlib.sha256()
        self._head = bytearray()
        self._size = 0
        self._is_committed = False
        self._is_discarded = False

    def write(self, data: bytearray) -> None:
        """Append bytes."""
        with self._lock:
            self._write(data)

    def finish(self, data: bytearray) -> None:
        """Append the last bytes, and commit the object."""
        with self._lock:
            self._write(data)
            if self._writer is not None:
                self._writer.commit()
                self._is_committed = True

    def discard(self) -> None:
        """Delete what was written, if anything."""
        with self._lock:
            self._is_discarded = True
            if self._writer is not None:
                self._writer.abort()
            if self._is_committed and self._store is not None:
                self._store.delete([self._key])

    def received_file(self, name: str) -> ReceivedFile:
        """Return what was written."""
        media_type = detect_media_type(bytes(self._head), name)
        return ReceivedFile(self._key, name, media_type, self._size, self._hash.digest())

    def _write(self, data: bytearray) -> None:
        if self._is_discarded:
            return
        if self._writer is None and self._store is not None:
            self._writer = self._store.open_writer(self._key)
        self._head += data[: HEAD_BYTES - len(self._head)]
        self._hash.update(data)
        self._size += len(data)
        if self._writer is not None:
            self._writer.write(data)
