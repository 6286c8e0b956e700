"""Beat's scheduler: inserts tasks that are due by the clock, each slot once, however many beats run.

The clock is the database's. A slot is taken in the transaction that inserts its task, so a beat that dies between the two
has done neither.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

import orjson
import structlog
from celery.apps.beat import Beat
from celery.beat import Scheduler
from pydantic import ValidationError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from shared import kill_points
from shared.contracts.catalog import list_kinds
from shared.contracts.kind import QUEUES
from shared.database.connections import OutageLog, make_engine
from shared.database.schema_version import wait_for_schema
from shared.log_setup import set_up_logs
from shared.queries import hot_tasks
from shared.queries import schedules as queries
from shared.queries.canaries import LIST_CANARIES
from shared.queries.signs_of_life import SHOW_SIGN_OF_LIFE
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import PLATFORM_ID, make_task, submission_document
from workers.celery_app import make_celery_app

log = structlog.get_logger()

_told: Final[dict[UUID, datetime]] = {}
"""By schedule, the slot of which it was told last that its task cannot be made: the slot stays due for as long as it lasts."""

TICK_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 2.0
KEEP_SECONDS: Final = 86_400
"""How long the platform's own tasks are kept: they are many, and tell little."""

CANARY: Final = "platform.canary"
CANARY_SECONDS: Final = 20
CANARY_LATE_SECONDS: Final = 60.0
"""So long after its last canary's return a queue is told of as late."""
CANARY_KEEP_SECONDS: Final = 900

PLATFORM_SCHEDULES: Final[dict[str, tuple[str, int]]] = {
    "purge": ("maintenance.purge", 60),
    "delete-orphans": ("maintenance.delete_orphans", 3600),
    "drop-old-rows": ("maintenance.drop_old_rows", 3600),
    **{f"canary-{queue}": (CANARY, CANARY_SECONDS) for queue in QUEUES},
}
"""The platform's own schedules: name -> kind, and every how many seconds."""


class SlotScheduler(Scheduler):  # type: ignore[misc]  # Celery has no types
    """Celery's hook for schedulers: `tick` does what is due and says when to come back, in seconds."""

    engine: Engine
    _schedules_ensured = False
    _outage = OutageLog()

    def setup_schedule(self) -> None:
        """Nothing is kept by Celery: schedules stand in the database."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Insert what is due. A database that is away is waited for."""
        try:
            if not self._schedules_ensured:
                ensure_platform_schedules(self.engine)
                self._schedules_ensured = True
            insert_due_tasks(self.engine)
        except SQLAlchemyError as error:
            self._outage.warn(error)
            return RETRY_SECONDS
        return TICK_SECONDS

    def close(self) -> None:
        """Nothing is kept."""


def ensure_platform_schedules(engine: Engine) -> None:
    """Make the platform's own schedules, or bring them up to date."""
    with engine.begin() as connection:
        for name, (kind, every_seconds) in PLATFORM_SCHEDULES.items():
            schedule_id = uuid5(PLATFORM_ID, name)
            params = {"queue": name.removeprefix("canary-")} if kind == CANARY else {}
            connection.execute(queries.ensure_schedule(schedule_id, name, kind, params, every_seconds))


def insert_due_tasks(engine: Engine) -> int:
    """Insert the task of each slot that is due and not done; give how many. Shows beat's sign of life."""
    with engine.begin() as connection:
        connection.exec_driver_sql(SHOW_SIGN_OF_LIFE, {"part": "beat"})
        due = connection.execute(queries.list_due_slots()).all()
    inserted = [slot.kind for slot in due if _insert_in_transaction(engine, slot)]
    if CANARY in inserted:
        tell_of_canaries(engine)
    return len(inserted)


def tell_of_canaries(engine: Engine) -> None:
    """Log of each queue how long its last canary was on its way, in milliseconds, and how long ago it came back."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(LIST_CANARIES, {"kind": CANARY}).all()
    for row in rows:
        late = row.age_seconds > CANARY_LATE_SECONDS
        (log.warning if late else log.info)(
            "canary_late" if late else "canary",
            queue=row.queue,
            round_trip_ms=None if row.round_trip_seconds is None else round(row.round_trip_seconds * 1000, 1),
            age_seconds=round(row.age_seconds, 1),
        )


def _insert_in_transaction(engine: Engine, due: Any) -> bool:
    with engine.begin() as connection:
        return bool(_insert(connection, due))


def _insert(connection: Connection, due: Any) -> int:
    kind = list_kinds().get(due.kind)
    if kind is None:
        if _told.get(due.id) != due.slot:
            log.error("unknown_kind_scheduled", schedule=due.name, kind=due.kind)
            _told[due.id] = due.slot
        return 0
    try:
        params = kind.params.model_validate_json(orjson.dumps(due.params))
    except ValidationError as error:
        # The other schedules are not to wait for someone to mend this one.
        if _told.get(due.id) != due.slot:
            log.error("unreadable_schedule", schedule=due.name, problems=error.error_count())
            _told[due.id] = due.slot
        return 0
    task = make_task(
        due.kind,
        kind,
        params.model_dump_json(by_alias=True).encode(),
        kind.queue_for(params),
        # What was not done when the next slot begins is done by that one.
        TaskOptions(
            keep_for=CANARY_KEEP_SECONDS if due.kind == CANARY else KEEP_SECONDS, ttl=max(60, due.every_seconds)
        ),
        PLATFORM_ID,
        PLATFORM_ID,
    )
    task.schedule_id = due.id
    if connection.execute(queries.take_slot(due.id, due.slot, task.id)).first() is None:
        return 0
    kill_points.reach("beat-after-slot")
    connection.exec_driver_sql(hot_tasks.SUBMIT, {"document": submission_document([task])})
    log.info("slot_done", schedule=due.name, task_id=str(task.id))
    return 1


def run_beat(settings: Settings) -> None:
    """Run beat until SIGTERM or SIGINT."""
    set_up_logs(settings, "beat")
    wait_for_schema(settings)
    database = make_engine(settings, "beat", pool_size=1)

    class BoundScheduler(SlotScheduler):
        engine = database

    app = make_celery_app(settings)
    log.info("beat_started")
    Beat(app=app, scheduler_cls=BoundScheduler, max_interval=TICK_SECONDS, loglevel="WARNING", quiet=True).run()
