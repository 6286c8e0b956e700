"""Opens the object store that `TASKMILL_STORAGE_URL` names. Only this module imports both implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from shared.errors import ConfigurationError
from shared.storage.local_objects import LocalObjects
from shared.storage.object_store import ObjectStore, check_key

_S3_OPTIONS: Final = frozenset({"endpoint_url", "region", "addressing_style"})


def open_object_store(storage_url: str) -> ObjectStore:
    """Return the object store at a URL; a folder is created when it is missing, a bucket is not contacted.

    The URL is `file:///absolute/path`, or `s3://bucket/prefix?endpoint_url=…&region=…&addressing_style=path|virtual|auto`
    with credentials where boto3 looks for them. Raises `ConfigurationError`, which says what is wrong, for any other.
    """
    parts = urlsplit(storage_url)
    if parts.scheme == "file":
        return _open_folder(unquote(parts.path), parts.netloc)
    if parts.scheme == "s3":
        return _open_bucket(storage_url)
    raise ConfigurationError(
        f"TASKMILL_STORAGE_URL begins with {parts.scheme or 'no scheme'}: write file:///srv/taskmill for a folder of this "
        "machine, or s3://bucket/prefix?endpoint_url=https://…&region=… for a bucket"
    )


def _open_folder(path: str, host: str) -> ObjectStore:
    if host not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise ConfigurationError(
            "TASKMILL_STORAGE_URL must name an absolute path of this machine, with three slashes: file:///srv/taskmill"
        )
    if path.strip("/") == "":
        raise ConfigurationError(
            "TASKMILL_STORAGE_URL names the root of the file system: use a folder that holds nothing else, such as "
            "file:///srv/taskmill"
        )
    return LocalObjects(Path(path))


def _open_bucket(storage_url: str) -> ObjectStore:
    # Importing boto3 takes a third of a second, which a process that uses a folder need not spend.
    from shared.storage.s3_objects import ADDRESSING_STYLES, AddressingStyle, S3Objects

    parts = urlsplit(storage_url)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "TASKMILL_STORAGE_URL contains credentials: put them where boto3 looks for them, such as the variables "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not parts.netloc:
        raise ConfigurationError("TASKMILL_STORAGE_URL names no bucket: write s3://bucket/prefix")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _S3_OPTIONS):
        raise ConfigurationError(
            f"TASKMILL_STORAGE_URL has the unknown option {unknown[0]}: known are {', '.join(sorted(_S3_OPTIONS))}"
        )
    endpoint_url = options.get("endpoint_url") or None
    if endpoint_url and urlsplit(endpoint_url).scheme not in ("http", "https"):
        raise ConfigurationError("The endpoint_url in TASKMILL_STORAGE_URL must begin with https:// or http://")
    # Self-hosted servers seldom have a host name for each bucket.
    style = options.get("addressing_style") or ("path" if endpoint_url else "auto")
    if style not in ADDRESSING_STYLES:
        raise ConfigurationError("The addressing_style in TASKMILL_STORAGE_URL must be path, virtual or auto")
    return S3Objects(
        bucket=parts.netloc,
        prefix=_check_prefix(unquote(parts.path).strip("/")),
        endpoint_url=endpoint_url,
        region=options.get("region") or None,
        addressing_style=cast(AddressingStyle, style),
    )


def _check_prefix(prefix: str) -> str:
    try:
        return check_key(prefix) if prefix else ""
    except ValueError:
        raise ConfigurationError(
            "The prefix in TASKMILL_STORAGE_URL may contain letters, digits, `.`, `_`, `-` and `/`, and no part of it "
            "may begin with `.`"
        ) from None
