"""Checks the platform's promises on stored data: rows against each other, and files against their objects.

Rows are read in one snapshot, so that the check can run while the platform works. Objects are stored before their rows and
deleted after them. A missing or different object therefore counts only if its file still exists now, and an object without a
file only if it still exists `RECHECK_SECONDS` later.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import compress, islice
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine

from shared.database.connections import make_engine
from shared.errors import ObjectMissing
from shared.identifiers import least_id
from shared.queries import verification as queries
from shared.settings import Settings
from shared.storage.object_store import COPY_BYTES, ObjectStore, StoredObject
from shared.storage.open_store import open_object_store

ROWS_AT_ONCE: Final = 1000
"""How many rows or objects are checked together."""
OBJECT_THREADS: Final = 8
ORPHAN_AGE: Final = timedelta(hours=26)
"""How old an object without a file must be to count. A younger one may still get its row, or wait for the hourly task that
deletes orphans older than a day."""
RECHECK_SECONDS: Final = 2.0
"""How much later an object without a file is checked again: a row is deleted a moment before its object."""
MAX_REPORTED_FINDINGS: Final = 10_000
"""How many findings of one check a report contains. Further ones are only counted."""
Item = TypeVar("Item")


class Finding(NamedTuple):
    """One broken promise. `subject` is the id of the task or file, or the key of the object."""

    check: str
    subject: str
    detail: str


@dataclass
class Report:
    """The findings of a run. Warnings are findings that the platform will repair by itself."""

    broken: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """The number of broken promises of each check, 0 included."""
    tasks: dict[str, int] = field(default_factory=dict)
    """The number of checked tasks, by status."""
    files: int = 0
    objects: int = 0

    @property
    def sound(self) -> bool:
        """Whether no promise is broken."""
        return not any(self.counts.values())

    def describe(self) -> str:
        """Return the findings as text, one in each line."""
        return "\n".join(f"{finding.check}: {finding.subject}: {finding.detail}" for finding in self.broken)


def verify(
    settings: Settings,
    *,
    since: datetime | None = None,
    deep: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Check every promise on the tasks since a time, or on all; with `deep`, read every object and compare its SHA-256.

    Calls `on_finding` with each broken promise as soon as it is found. Raises the errors of the database and of the store.
    """
    engine = make_engine(settings, "verify", timeout_seconds=None)
    try:
        return _Verification(engine, open_object_store(settings.storage_url), settings, since, deep, on_finding).run()
    finally:
        engine.dispose()


def find_broken_rows(connection: Connection, since: datetime | None, lease_seconds: float) -> Iterator[Finding]:
    """Yield a finding for each contradiction between rows, in the snapshot of the connection's transaction."""
    parameters = {"floor": least_id(since), "lease": lease_seconds}
    for check in queries.CHECKS:
        for row in _stream(connection, check.statement, parameters):
            yield Finding(check.name, str(row.subject), row.detail)


class _Verification:
    """One run: first the rows, in a snapshot; then the objects of their files; then all objects of the store."""

    def __init__(
        self,
        engine: Engine,
        store: ObjectStore,
        settings: Settings,
        since: datetime | None,
        deep: bool,
        on_finding: Callable[[Finding], None] | None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._since = since
        self._deep = deep
        self._on_finding = on_finding
        self._lease_seconds = settings.lease_seconds
        self._audit_keep_days = settings.audit_keep_days
        self._floor = {"floor": least_id(since)}
        self._report = Report()

    def run(self) -> Report:
        names = [check.name for check in queries.CHECKS]
        self._report.counts = dict.fromkeys([*names, "objects", "orphans"], 0)
        with self._engine.connect() as connection:
            for statement in queries.BEGIN_SNAPSHOT:
                connection.exec_driver_sql(statement)
            self._report.tasks = {row.status: row.tasks for row in _stream(connection, queries.COUNT, self._floor)}
            for finding in find_broken_rows(connection, self._since, self._lease_seconds):
                self._note(*finding)
            self._warn_of_early_deletion(connection)
            self._check_objects(connection)
        self._find_orphans()
        return self._report

    def _note(self, check: str, subject: object, detail: str) -> None:
        finding = Finding(check, str(subject), detail)
        self._report.counts[check] += 1
        if self._report.counts[check] <= MAX_REPORTED_FINDINGS:
            self._report.broken.append(finding)
        if self._on_finding is not None:
            self._on_finding(finding)

    def _warn_of_early_deletion(self, connection: Connection) -> None:
        """Warn of deleted seals of the audit log that are too young. It breaks no promise if the time was made longer since."""
        parameters = {"keep_days": self._audit_keep_days}
        for row in _stream(connection, queries.FIND_EARLY_DELETION, parameters):
            detail = (
                f"the audit log was deleted up to the seal {row.number} of {row.sealed_at:%Y-%m-%d %H:%M}, which is younger than "
                f"{self._audit_keep_days} days: TASKMILL_AUDIT_KEEP_DAYS was lower, or somebody deleted entries too early"
            )
            self._report.warnings.append(Finding("audit-seals", str(row.number), detail))

    def _check_objects(self, connection: Connection) -> None:
        """Check the object of every file."""
        with ThreadPoolExecutor(OBJECT_THREADS) as threads:
            for rows in _group(_stream(connection, queries.LIST_FILES, self._floor)):
                self._report.files += len(rows)
                wrong = {
                    row.id: (row.task_id or row.id, detail)
                    for row, detail in zip(rows, threads.map(self._find_difference, rows), strict=True)
                    if detail is not None
                }
                for file_id in self._query_now(queries.LIST_STORED, "ids", list(wrong)) if wrong else ():
                    self._note("objects", *wrong[file_id])

    def _find_difference(self, row: Any) -> str | None:
        try:
            size = self._store.size(row.storage_key)
            if size != row.size:
                return f"the object of the file {row.id} has {size} bytes, not {row.size}"
            if self._deep and self._digest(row.storage_key) != bytes(row.sha256):
                return f"the object of the file {row.id} has another SHA-256"
        except ObjectMissing:
            return f"the object of the file {row.id} is missing"
        return None

    def _digest(self, key: str) -> bytes:
        digest = hashlib.sha256()
        with self._store.open_reader(key) as reader:
            while data := reader.read(COPY_BYTES):
                digest.update(data)
        return digest.digest()

    def _find_orphans(self) -> None:
        """Check all objects of the store against the current rows, because a row may have been inserted since the snapshot."""
        suspects: list[StoredObject] = []
        for objects in _group(self._store.list_objects(datetime.now(UTC) + ORPHAN_AGE)):
            self._report.objects += len(objects)
            suspects += self._list_unreferred(
                [stored for stored in objects if self._since is None or stored.modified_at >= self._since]
            )
            if len(suspects) >= ROWS_AT_ONCE:
                self._check_again(suspects)
                suspects = []
        if suspects:
            self._check_again(suspects)

    def _list_unreferred(self, objects: list[StoredObject]) -> list[StoredObject]:
        known = set(self._query_now(queries.LIST_REFERRED_KEYS, "keys", [stored.key for stored in objects]))
        return [stored for stored in objects if stored.key not in known]

    def _check_again(self, suspects: list[StoredObject]) -> None:
        """Check objects without a file again, and report those that still exist and still have none."""
        time.sleep(RECHECK_SECONDS)
        limit = datetime.now(UTC) - ORPHAN_AGE
        unreferred = self._list_unreferred(suspects)
        with ThreadPoolExecutor(OBJECT_THREADS) as threads:
            exists = list(threads.map(self._exists, [stored.key for stored in unreferred]))
        for stored in compress(unreferred, exists):
            if stored.modified_at < limit:
                self._note(
                    "orphans",
                    stored.key,
                    f"no file refers to it, and it was stored at {stored.modified_at:%Y-%m-%d %H:%M}",
                )
            elif len(self._report.warnings) < MAX_REPORTED_FINDINGS:
                detail = "no file refers to it: an upload may be going on, or was ended by a crash"
                self._report.warnings.append(Finding("orphans", stored.key, detail))

    def _exists(self, key: str) -> bool:
        try:
            self._store.size(key)
        except ObjectMissing:
            return False
        return True

    def _query_now(self, statement: str, name: str, values: list[Any]) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.exec_driver_sql(statement, {name: values}).scalars())


def _stream(connection: Connection, statement: str, parameters: dict[str, Any]) -> Iterator[Any]:
    options = {"stream_results": True, "max_row_buffer": ROWS_AT_ONCE}
    with connection.exec_driver_sql(statement, parameters, execution_options=options) as result:
        yield from result


def _group(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while group := list(islice(iterator, ROWS_AT_ONCE)):
        yield group
