"""The platform's own errors, in one tree. Only `api/http/error_responses.py` knows their HTTP status codes.

TaskmillError
├── ConfigurationError        a setting is wrong, and a process does not start
├── SchemaTooNew              a later version of Taskmill has migrated the database
├── StorageFull               the object store has no space left
├── StorageUnavailable        the object store does not respond
└── ObjectMissing             the object store has no object of that key
"""

from __future__ import annotations

import errno


class TaskmillError(Exception):
    """The base of the platform's errors."""


class ConfigurationError(TaskmillError):
    """A setting is wrong. The message is for the operator: it says what to do, and contains no secret."""


class SchemaTooNew(TaskmillError):
    """The database has a migration that this version does not know."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"the database is at migration {found}, which this version of Taskmill does not know: "
            "run the version that made it, or a later one"
        )
        self.found = found


class StorageFull(TaskmillError):
    """The object store has no space left."""


class StorageUnavailable(TaskmillError):
    """The object store does not respond, or responds with an error that may be temporary."""


class ObjectMissing(TaskmillError):
    """There is no object under that key."""

    def __init__(self, key: str) -> None:
        super().__init__("there is no object under this key")
        self.key = key


_NO_ROOM_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_no_room(error: BaseException) -> bool:
    """Return whether an error means that a disk, a quota or the object store has no space left."""
    return isinstance(error, StorageFull) or (isinstance(error, OSError) and error.errno in _NO_ROOM_ERRORS)
