"""Objects in a bucket, by the S3 API (Amazon S3 API Reference), on Amazon's servers or compatible ones.

Timeouts and retries are bounded: a server that does not respond is an error within two minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import ObjectMissing, StorageFull, StorageUnavailable
from shared.storage.object_store import (
    COPY_BYTES,
    ObjectReader,
    ObjectWriter,
    StoredObject,
    check_key,
    is_made_key,
    list_key_folders,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

AddressingStyle = Literal["path", "virtual", "auto"]
ADDRESSING_STYLES: Final = frozenset({"path", "virtual", "auto"})

_CONNECT_SECONDS: Final = 3
_READ_SECONDS: Final = 30
_MOST_ATTEMPTS: Final = 3
_CONNECTIONS: Final = 32

_PART_BYTES: Final = 8 << 20
_PARTS_OF_ONE_SIZE: Final = 2000
"""An upload has at most 10,000 parts (Amazon S3 User Guide, "multipart upload limits"). Later parts are larger, so that half
a tebibyte fits and small files need little memory."""
_KEYS_OF_ONE_DELETE: Final = 1000

_FULL_CODES: Final = frozenset(
    {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
)
_ABSENT_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound"})


class S3Objects:
    """The storage port on a bucket. All keys begin with a prefix."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "",
        endpoint_url: str | None = None,
        region: str | None = None,
        addressing_style: AddressingStyle = "auto",
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix + "/" if prefix else ""
        with raising_storage_errors(""):
            session = boto3.session.Session()
            # Self-hosted servers accept any region, but a request cannot be signed without one.
            own_region = region or session.region_name or ("us-east-1" if endpoint_url else None)
            self.client: S3Client = session.client(
                "s3",
                endpoint_url=endpoint_url,
                region_name=own_region,
                config=Config(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    retries={"mode": "standard", "max_attempts": _MOST_ATTEMPTS},
                    max_pool_connections=_CONNECTIONS,
                    # Many servers do not support the checksums that newer clients add. The signature covers the body anyway.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={"addressing_style": addressing_style},
                ),
            )

    def put_file(self, key: str, path: Path) -> None:
        with self.open_writer(key) as writer, path.open("rb") as file:
            while data := file.read(COPY_BYTES):
                writer.write(data)
            writer.commit()

    def open_writer(self, key: str) -> ObjectWriter:
        return _S3Writer(self.client, self._bucket, self._name(key))

    def open_reader(self, key: str, start: int = 0, length: int | None = None) -> ObjectReader:
        if length == 0 and self.size(key) >= 0:
            return _S3Reader(None, key)
        try:
            return self._open_range(key, start, length)
        except _RangeRefused:
            # Some servers refuse a range that ends beyond the object, although RFC 9110 (14.1.2) allows it.
            left = self.size(key) - start
            if left <= 0:
                return _S3Reader(None, key)
            return self._open_range(key, start, left if length is None else min(left, length))

    def local_path(self, key: str) -> Path | None:
        check_key(key)
        return None

    def fetch(self, key: str, path: Path) -> None:
        with self.open_reader(key) as reader:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    while data := reader.read(COPY_BYTES):
                        file.write(data)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def size(self, key: str) -> int:
        with raising_storage_errors(key):
            return self.client.head_object(Bucket=self._bucket, Key=self._name(key))["ContentLength"]

    def delete(self, keys: Sequence[str]) -> None:
        names = [self._name(key) for key in keys]
        with raising_storage_errors(""):
            if len(names) == 1:
                self.client.delete_object(Bucket=self._bucket, Key=names[0])
                return
            for first in range(0, len(names), _KEYS_OF_ONE_DELETE):
                some = names[first : first + _KEYS_OF_ONE_DELETE]
                answer = self.client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": name} for name in some], "Quiet": True}
                )
                failed = [e for e in answer.get("Errors", []) if e.get("Code") not in _ABSENT_CODES]
                if failed:
                    raise StorageUnavailable(
                        f"the bucket did not delete {len(failed)} objects: {failed[0].get('Code')}"
                    )

    def list_objects(self, older_than: datetime) -> Iterator[StoredObject]:
        paginator = self.client.get_paginator("list_objects_v2")
        with raising_storage_errors(""):
            for folder in list_key_folders():
                for page in paginator.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}{folder}/"):
                    for found in page.get("Contents", []):
                        key = found["Key"].removeprefix(self._prefix)
                        if found["LastModified"] < older_than and is_made_key(key):
                            yield StoredObject(key, found["LastModified"])

    def abort_abandoned(self, older_than: datetime) -> int:
        count = 0
        with raising_storage_errors(""):
            for page in self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                for found in page.get("Uploads", []):
                    # Not every server applies the prefix, and uploads of other programs must not be aborted.
                    is_ours = found["Key"].startswith(self._prefix) and is_made_key(
                        found["Key"].removeprefix(self._prefix)
                    )
                    if is_ours and found["Initiated"] < older_than:
                        _abort_upload(self.client, self._bucket, found["Key"], found["UploadId"])
                        count += 1
        return count

    def check(self) -> None:
        try:
            with raising_storage_errors(""):
                self.client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        except (ObjectMissing, StorageFull) as error:
            raise StorageUnavailable("the bucket cannot be listed") from error

    def _open_range(self, key: str, start: int, length: int | None) -> ObjectReader:
        last = "" if length is None else start + length - 1
        wanted: dict[str, Any] = {} if start == 0 and length is None else {"Range": f"bytes={start}-{last}"}
        with raising_storage_errors(key):
            answer = self.client.get_object(Bucket=self._bucket, Key=self._name(key), **wanted)
        return _S3Reader(answer["Body"], key)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)


class _S3Writer:
    """Sends a small object in one request, and a large one in parts, of which one at a time is in memory."""

    def __init__(self, client: S3Client, bucket: str, name: str) -> None:
        self._client = client
        self._bucket = bucket
        self._name = name
        self._buffer = bytearray()
        self._size = 0
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []
        self._is_over = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data)
        while left:
            room = self._part_bytes - len(self._buffer)
            self._buffer += left[:room]
            left = left[room:]
            if len(self._buffer) == self._part_bytes:
                self._send_part()

    def commit(self) -> None:
        try:
            with raising_storage_errors(self._name):
                if self._upload_id is None:
                    self._size += len(self._buffer)
                    self._client.put_object(Bucket=self._bucket, Key=self._name, Body=_body(self._buffer))
                else:
                    if self._buffer:
                        self._send_part()
                    self._complete(self._upload_id)
        except BaseException:
            self.abort()
            raise
        self._is_over = True
        self._buffer = bytearray()

    def abort(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._buffer = bytearray()
        if self._upload_id is not None:
            try:
                with raising_storage_errors(self._name):
                    _abort_upload(self._client, self._bucket, self._name, self._upload_id)
            except StorageUnavailable:
                # `abort_abandoned` finds it later. The reason for the abort is the error to report.
                return

    @property
    def _part_bytes(self) -> int:
        return _PART_BYTES << (len(self._parts) // _PARTS_OF_ONE_SIZE)

    def _send_part(self) -> None:
        with raising_storage_errors(self._name):
            if self._upload_id is None:
                self._upload_id = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._name)["UploadId"]
            number = len(self._parts) + 1
            sent = self._client.upload_part(
                Bucket=self._bucket,
                Key=self._name,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=_body(self._buffer),
            )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        self._size += len(self._buffer)
        self._buffer = bytearray()

    def _complete(self, upload_id: str) -> None:
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=self._name, UploadId=upload_id, MultipartUpload={"Parts": self._parts}
            )
        except ClientError as error:
            # An earlier request may have succeeded and its response be lost: then the object exists, and the upload does not.
            if _code(error) != "NoSuchUpload" or self._stored_size() != self._size:
                raise

    def _stored_size(self) -> int | None:
        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._name)["ContentLength"]
        except ClientError:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class _S3Reader:
    def __init__(self, body: Any, key: str) -> None:
        self._body = body
        self._key = key

    def read(self, size: int = -1) -> bytes:
        if self._body is None or size == 0:
            return b""
        with raising_storage_errors(self._key):
            data: bytes = self._body.read(None if size < 0 else size)
            return data

    def close(self) -> None:
        if self._body is not None:
            self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _RangeRefused(StorageUnavailable):
    """The server refused this range of the object."""


@contextmanager
def raising_storage_errors(key: str) -> Iterator[None]:
    """Raise the errors of `shared/errors.py` in the place of those of boto3."""
    try:
        yield
    except ClientError as error:
        code = _code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in _ABSENT_CODES:
            raise ObjectMissing(key) from error
        if code in _FULL_CODES or status == HTTPStatus.INSUFFICIENT_STORAGE:
            raise StorageFull("the bucket has no space left") from error
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or code == "InvalidArgument":
            raise _RangeRefused(f"the bucket answered {code}") from error
        raise StorageUnavailable(f"the bucket answered {code}") from error
    except BotoCoreError as error:
        raise StorageUnavailable(f"the bucket was not reached: {type(error).__name__}") from error


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _body(buffer: bytearray) -> bytes:
    """Return a buffer as the body of a request. The client accepts it, its type stubs do not, and a copy costs memory."""
    return cast(bytes, buffer)


def _abort_upload(client: S3Client, bucket: str, name: str, upload_id: str) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=name, UploadId=upload_id)
    except ClientError as error:
        if _code(error) != "NoSuchUpload":
            raise
