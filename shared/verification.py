"""Proves the platform's promises on what is stored: the rows against each other, and the files against their objects.

Everything is read in one snapshot, so that it may be asked of a busy system. What the store shows is compared with the
rows of now before it counts, as objects come before their rows and go after them; and an object that no row names counts
if it is still there a moment later.
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

ROUND: Final = 1000
OBJECT_THREADS: Final = 8
ORPHAN_AGE: Final = timedelta(hours=26)
"""How old an object without a file must be to count: a younger one may still wait for its row, or for the hunt, which
comes every hour for what is older than a day."""
LOOK_AGAIN_SECONDS: Final = 2.0
"""How much later an object without a file is looked for again: a row that goes is gone a moment before its object."""
MOST_KEPT: Final = 10_000
"""Findings of one check that a report keeps; the rest are counted only."""
Item = TypeVar("Item")


class Finding(NamedTuple):
    """One thing that is not as promised. `subject` is the task's id, or the file's or the object's key."""

    check: str
    subject: str
    detail: str


@dataclass
class Report:
    """What was found. It is sound when nothing is broken; warnings are for what will be seen to."""

    broken: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Broken promises by check, every check with its number."""
    tasks: dict[str, int] = field(default_factory=dict)
    """Tasks looked at, by status."""
    files: int = 0
    objects: int = 0

    @property
    def sound(self) -> bool:
        """Whether every promise held."""
        return not any(self.counts.values())

    def describe(self) -> str:
        """Give the findings as text, one a line."""
        return "\n".join(f"{finding.check}: {finding.subject}: {finding.detail}" for finding in self.broken)


def verify(
    settings: Settings,
    *,
    since: datetime | None = None,
    deep: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Check every promise on what was accepted since a time, or ever; with `deep`, read every object for its SHA-256.

    `on_finding` is called with each broken promise as it is found. Raises what the database or the store raise.
    """
    engine = make_engine(settings, "verify", timeout_seconds=None)
    try:
        return _Verification(engine, open_object_store(settings.storage_url), settings, since, deep, on_finding).run()
    finally:
        engine.dispose()


def find_broken_rows(connection: Connection, since: datetime | None, lease_seconds: float) -> Iterator[Finding]:
    """Find what rows say against each other, in the snapshot that the connection's transaction has or takes."""
    parameters = {"floor": least_id(since), "lease": lease_seconds}
    for check in queries.CHECKS:
        for subject, detail in _stream(connection, check.statement, parameters):
            yield Finding(check.name, str(subject), detail)


class _Verification:
    """One run. The rows come first, in their snapshot, then the objects of its files, then the walk of the store."""

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
        self._floor = {"floor": least_id(since)}
        self._report = Report()

    def run(self) -> Report:
        names = [check.name for check in queries.CHECKS]
        self._report.counts = dict.fromkeys([*names, "objects", "orphans"], 0)
        with self._engine.connect() as connection:
            for statement in queries.BEGIN_SNAPSHOT:
                connection.exec_driver_sql(statement)
            self._report.tasks = {row[0]: row[1] for row in _stream(connection, queries.COUNT, self._floor)}
            for finding in find_broken_rows(connection, self._since, self._lease_seconds):
                self._note(*finding)
            self._check_objects(connection)
        self._find_orphans()
        return self._report

    def _note(self, check: str, subject: object, detail: str) -> None:
        finding = Finding(check, str(subject), detail)
        self._report.counts[check] += 1
        if self._report.counts[check] <= MOST_KEPT:
            self._report.broken.append(finding)
        if self._on_finding is not None:
            self._on_finding(finding)

    def _check_objects(self, connection: Connection) -> None:
        """Ask the store for the object of every file."""
        with ThreadPoolExecutor(OBJECT_THREADS) as threads:
            for rows in _in_rounds(_stream(connection, queries.LIST_FILES, self._floor)):
                self._report.files += len(rows)
                wrong = {
                    row.id: (row.task_id or row.id, detail)
                    for row, detail in zip(rows, threads.map(self._find_fault, rows), strict=True)
                    if detail is not None
                }
                for file_id in self._list_now(queries.LIST_STILL_THERE, "ids", list(wrong)) if wrong else ():
                    self._note("objects", *wrong[file_id])

    def _find_fault(self, row: Any) -> str | None:
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
        """Walk the store, after the snapshot: an object is stored before its row, so that a row of now counts."""
        suspects: list[StoredObject] = []
        for objects in _in_rounds(self._store.list_objects(datetime.now(UTC) + ORPHAN_AGE)):
            self._report.objects += len(objects)
            suspects += self._find_nameless(
                [stored for stored in objects if self._since is None or stored.modified_at >= self._since]
            )
            if len(suspects) >= ROUND:
                self._judge_orphans(suspects)
                suspects = []
        if suspects:
            self._judge_orphans(suspects)

    def _find_nameless(self, objects: list[StoredObject]) -> list[StoredObject]:
        known = set(self._list_now(queries.LIST_KNOWN_KEYS, "keys", [stored.key for stored in objects]))
        return [stored for stored in objects if stored.key not in known]

    def _judge_orphans(self, suspects: list[StoredObject]) -> None:
        """Look again at objects without a file, and note those that are neither gone nor named by now."""
        time.sleep(LOOK_AGAIN_SECONDS)
        limit = datetime.now(UTC) - ORPHAN_AGE
        nameless = self._find_nameless(suspects)
        with ThreadPoolExecutor(OBJECT_THREADS) as threads:
            there = list(threads.map(self._is_there, [stored.key for stored in nameless]))
        for stored in compress(nameless, there):
            if stored.modified_at < limit:
                self._note("orphans", stored.key, f"no file refers to it since {stored.modified_at:%Y-%m-%d %H:%M}")
            elif len(self._report.warnings) < MOST_KEPT:
                detail = "no file refers to it; it may be in the making, or left by a crash"
                self._report.warnings.append(Finding("orphans", stored.key, detail))

    def _is_there(self, key: str) -> bool:
        try:
            self._store.size(key)
        except ObjectMissing:
            return False
        return True

    def _list_now(self, statement: str, name: str, values: list[Any]) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.exec_driver_sql(statement, {name: values}).scalars())


def _stream(connection: Connection, statement: str, parameters: dict[str, Any]) -> Iterator[Any]:
    options = {"stream_results": True, "max_row_buffer": ROUND}
    with connection.exec_driver_sql(statement, parameters, execution_options=options) as result:
        yield from result


def _in_rounds(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while items_of_round := list(islice(iterator, ROUND)):
        yield items_of_round
