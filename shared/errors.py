"""What can go wrong, as the platform's own errors. HTTP status codes are known only to `api/http/error_responses.py`.

TaskmillError
├── ConfigurationError        a setting is wrong; a part does not start
├── SchemaTooNew              the database was migrated by a later version
├── StorageFull               no room for another byte
├── StorageUnavailable        the object store does not answer
└── ObjectMissing             the object store has no such key
"""

from __future__ import annotations


class TaskmillError(Exception):
    """The root of the tree."""


class ConfigurationError(TaskmillError):
    """A setting is wrong. The message is for the operator and says what to do; it holds no secret."""


class SchemaTooNew(TaskmillError):
    """The database holds a migration that this version does not know."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"the database is at migration {found}, which this version of Taskmill does not know: "
            "run the version that made it, or a later one"
        )
        self.found = found


class StorageFull(TaskmillError):
    """The object store has no room left."""


class StorageUnavailable(TaskmillError):
    """The object store does not answer, or answers with an error that may pass."""


class ObjectMissing(TaskmillError):
    """There is no object under that key."""

    def __init__(self, key: str) -> None:
        super().__init__("there is no such object")
        self.key = key
