"""Beat's scheduler: inserts tasks that are due by the clock, each slot once, however many beats run.

The clock is the database's. A slot is taken in the transaction that inserts its task, so a beat that dies between the two
has done neither.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import structlog
from celery.apps.beat import Beat
from celery.beat import Scheduler
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from shared import kill_points
from shared.contracts.kind import QUEUES
from shared.database.connections import make_engine
from shared.database.schema_version import wait_for_schema
from shared.limits import QUOTA_EXCEEDED
from shared.log_setup import set_up_logs
from shared.outage_log import OutageLog
from shared.queries import hot_tasks
from shared.queries import schedules as queries
from shared.queries.canaries import CANARY_KIND, LIST_CANARIES
from shared.queries.signs_of_life import SHOW_SIGN_OF_LIFE
from shared.queries.tasks import COUNT_QUEUED
from shared.queries.workflows import INSERT_WORKFLOW
from shared.schedules.slots import Missed, plan_slots
from shared.schedules.submission import UnusableSchedule, describe_failed, find_rule, make_scheduled
from shared.settings import Settings
from shared.tasks.submission import PLATFORM_ID, NewTask, needs_keyed_form, submission_document
from shared.workflows.submission import NewWorkflow
from workers.celery_app import make_celery_app

log = structlog.get_logger()

BEAT_TICK_SECONDS: Final = 1.0
DATABASE_RETRY_SECONDS: Final = 2.0
UNKNOWN_ZONE_RETRY: Final = timedelta(minutes=1)
"""When a schedule is tried again whose time zone this computer does not know."""
DUE_TOGETHER: Final = 100
"""How many schedules are looked at in one transaction."""
LONGEST_TURN_SECONDS: Final = 5.0
"""How long slots are looked at before the next sign of life, however many are due."""
CLOCK_CHECK_SECONDS: Final = 60.0
CLOCK_TURNED_BACK_SECONDS: Final = 5.0
"""How far ahead of the clock the moment of planning must lie to show that the clock was turned back."""
KEEP_SECONDS: Final = 86_400
"""How long the platform's own tasks are kept: they are many, and of little interest once done."""

CANARY_SECONDS: Final = 20
CANARY_LATE_SECONDS: Final = 60.0
"""How long after the return of its last canary a queue is logged as late."""
CANARY_KEEP_SECONDS: Final = 900
INPUT_GONE: Final = {
    "type": "/problems/input-gone",
    "title": "Input gone",
    "detail": "A file that the schedule's params name was deleted: change the params, or delete the schedule.",
}
QUEUE_FULL: Final = {
    "type": "/problems/queue-full",
    "title": "Queue full",
    "detail": "Too many tasks were queued when the time came, so that it got no task. Later times get one.",
}
QUOTA_USED_UP: Final = {
    "type": "/problems/quota-exceeded",
    "title": "Quota exceeded",
    "detail": "A quota was used up when the time came, so that it got no task. Later times get one when there is room again.",
}

PLATFORM_SCHEDULES: Final[dict[str, tuple[str, int]]] = {
    "purge": ("maintenance.purge", 60),
    "delete-orphans": ("maintenance.delete_orphans", 3600),
    "drop-old-rows": ("maintenance.drop_old_rows", 3600),
    "drop-expired-sign-ins": ("maintenance.drop_expired_sign_ins", 3600),
    "seal-audit": ("maintenance.seal_audit", 60),
    **{f"canary-{queue}": (CANARY_KIND, CANARY_SECONDS) for queue in QUEUES},
}
"""The platform's own schedules: name -> kind, and every how many seconds."""


class QueueBounds(NamedTuple):
    """How many tasks may be queued, as the settings of the same names have it; 0 for no limit."""

    max_queued: int = 0
    max_queued_per_caller: int = 0


class SlotScheduler(Scheduler):  # type: ignore[misc]  # Celery has no types
    """Celery's hook for schedulers: `tick` submits what is due and returns when to come back, in seconds."""

    engine: Engine
    bounds = QueueBounds()
    _schedules_ensured = False
    _check_clock_at = 0.0
    _outage = OutageLog()

    def setup_schedule(self) -> None:
        """Do nothing: schedules stand in the database."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Submit what is due. Retries while the database is away."""
        try:
            if not self._schedules_ensured:
                ensure_platform_schedules(self.engine)
                self._schedules_ensured = True
            if time.monotonic() >= self._check_clock_at:
                look_again_after_clock_was_turned_back(self.engine)
                self._check_clock_at = time.monotonic() + CLOCK_CHECK_SECONDS
            insert_due_tasks(self.engine, self.bounds)
        except SQLAlchemyError as error:
            self._outage.warn(error)
            return DATABASE_RETRY_SECONDS
        self._outage.end()
        return BEAT_TICK_SECONDS

    def close(self) -> None:
        """Do nothing: nothing is kept."""


def ensure_platform_schedules(engine: Engine) -> None:
    """Store the platform's own schedules, or bring them up to date."""
    with engine.begin() as connection:
        for name, (kind, every_seconds) in PLATFORM_SCHEDULES.items():
            schedule_id = uuid5(PLATFORM_ID, name)
            params = {"queue": name.removeprefix("canary-")} if kind == CANARY_KIND else {}
            options = {
                "keep_for": CANARY_KEEP_SECONDS if kind == CANARY_KIND else KEEP_SECONDS,
                # The next slot does the work that was not done when it begins.
                "ttl": max(60, every_seconds),
            }
            connection.execute(queries.ensure_schedule(schedule_id, name, kind, params, options, every_seconds))


def look_again_after_clock_was_turned_back(engine: Engine) -> None:
    """Look again at schedules that were planned while the database's clock was ahead of what it is now."""
    with engine.begin() as connection:
        statement = queries.plan_again_after_clock_was_turned_back(CLOCK_TURNED_BACK_SECONDS)
        names = connection.execute(statement).scalars().all()
    if names:
        log.warning("clock_turned_back", schedules=len(names))


def insert_due_tasks(engine: Engine, bounds: QueueBounds = QueueBounds()) -> int:  # noqa: B008 (it cannot change)
    """Write beat's sign of life, and insert the tasks of the slots that have come; return how many tasks.

    Slots that are left after `LONGEST_TURN_SECONDS` are for the next call.
    """
    end = time.monotonic() + LONGEST_TURN_SECONDS
    with engine.begin() as connection:
        connection.exec_driver_sql(SHOW_SIGN_OF_LIFE, {"part": "beat"})
    inserted = 0
    while True:
        try:
            due, tasks = _insert_together(engine, DUE_TOGETHER, bounds)
        except IntegrityError:
            # A task that the database refuses, as without its file or beyond a quota, must not hold up the other schedules.
            due, tasks = _insert_together(engine, 1, bounds)
        inserted += len(tasks)
        if any(task.kind == CANARY_KIND for task in tasks):
            log_canaries(engine)
        if not due or time.monotonic() > end:
            return inserted


def _insert_together(engine: Engine, limit: int, bounds: QueueBounds) -> tuple[int, list[NewTask | NewWorkflow]]:
    """Insert the tasks of up to `limit` schedules in one transaction; return how many were due, and the tasks.

    A refusal by the database becomes the last error of a schedule that is alone, and is raised for several.
    """
    with engine.begin() as connection:
        due = connection.execute(queries.lock_due_schedules(limit)).all()
        plans = [_plan(schedule) for schedule in due]
        if any(bounds):
            plans = _keep_within_bounds(connection, bounds, due, plans)
        wanted = [task for plan in plans for task in plan.tasks]
        inserted: list[NewTask | NewWorkflow] = []
        try:
            with connection.begin_nested():
                inserted = _take_slots(connection, wanted)
        except IntegrityError as error:
            if len(due) > 1:
                raise
            is_over_quota = getattr(error.orig, "sqlstate", None) == QUOTA_EXCEEDED
            plans = [plans[0]._replace(error=QUOTA_USED_UP if is_over_quota else INPUT_GONE)]
        for schedule, plan in zip(due, plans, strict=True):
            if plan.error:
                log.error("schedule_failed", schedule=schedule.name, kind=schedule.kind, type=plan.error["type"])
        planned = [
            {
                "schedule": schedule.id,
                "next": plan.next_at,
                "error": plan.error,
                "details": describe_failed(schedule, schedule.now) if plan.error else None,
            }
            for schedule, plan in zip(due, plans, strict=True)
        ]
        if planned:
            connection.execute(queries.plan_next_slots(), planned)
    for slot_task in inserted:
        log.debug("slot_submitted", kind=slot_task.kind, task_id=str(slot_task.id))
    return len(due), inserted


class SlotTask(NamedTuple):
    """A slot, and the task or workflow that it gets."""

    slot: datetime
    task: NewTask | NewWorkflow

    @property
    def task_id(self) -> UUID:
        """The task, or that of the first step of the workflow."""
        return self.task.id if isinstance(self.task, NewTask) else self.task.first_task_id

    @property
    def size(self) -> int:
        """How many tasks it is."""
        return 1 if isinstance(self.task, NewTask) else len(self.task.plans)


class SchedulePlan(NamedTuple):
    """What one due schedule gets now."""

    tasks: list[SlotTask]
    next_at: datetime | None
    error: Mapping[str, str] | None = None


def _plan(schedule: Any) -> SchedulePlan:
    """Return the tasks of a due schedule's slots, or why it gets none."""
    try:
        rule = find_rule(schedule)
    except UnusableSchedule as error:
        # The next slot cannot be known. The zone's data may be installed by then.
        return SchedulePlan([], schedule.now + UNKNOWN_ZONE_RETRY, error.error)
    slots, next_at = plan_slots(rule, schedule.next_at, schedule.planned_at, schedule.now, Missed(schedule.missed))
    if schedule.overlap == "skip":
        # Tasks of several slots that are inserted together would run beside each other.
        slots = slots[-1:]
    if schedule.is_running and slots:
        log.info("slot_skipped", schedule=schedule.name, reason="overlap")
        return SchedulePlan([], next_at)
    try:
        return SchedulePlan([SlotTask(slot, make_scheduled(schedule, slot)) for slot in slots], next_at)
    except UnusableSchedule as error:
        return SchedulePlan([], next_at, error.error)


def _keep_within_bounds(
    connection: Connection, bounds: QueueBounds, due: Sequence[Any], plans: Sequence[SchedulePlan]
) -> list[SchedulePlan]:
    """Return the plans, without the tasks of those schedules whose owners, or all callers, have too many queued.

    The platform's own tasks are few, and needed most when much is queued.
    """
    queued = Counter({row.owner_id: row.queued for row in connection.exec_driver_sql(COUNT_QUEUED)})
    total = queued.total()
    kept = []
    for schedule, plan in zip(due, plans, strict=True):
        tasks = sum(slot.size for slot in plan.tasks)
        is_full = bool(bounds.max_queued) and total + tasks > bounds.max_queued
        if bounds.max_queued_per_caller and queued[schedule.owner_id] + tasks > bounds.max_queued_per_caller:
            is_full = True
        if tasks and is_full and schedule.owner_id != PLATFORM_ID:
            kept.append(SchedulePlan([], plan.next_at, QUEUE_FULL))
            continue
        queued[schedule.owner_id] += tasks
        total += tasks
        kept.append(plan)
    return kept


def _take_slots(connection: Connection, wanted: Sequence[SlotTask]) -> list[NewTask | NewWorkflow]:
    """Insert the tasks and workflows of those slots that no other beat has taken, and return them."""
    if not wanted:
        return []
    rows = [{"schedule_id": one.task.schedule_id, "slot": one.slot, "task_id": one.task_id} for one in wanted]
    taken = set(connection.execute(queries.insert_slots(rows)).scalars())
    new = [one.task for one in wanted if one.task_id in taken]
    if new:
        kill_points.reach("beat-after-slot")
    tasks = [task for task in new if isinstance(task, NewTask)]
    if tasks:
        statement = hot_tasks.SUBMIT_KEYED if any(needs_keyed_form(task) for task in tasks) else hot_tasks.SUBMIT
        connection.exec_driver_sql(statement, {"document": submission_document(tasks)})
    for workflow in new:
        if isinstance(workflow, NewWorkflow):
            connection.exec_driver_sql(INSERT_WORKFLOW, {"document": workflow.document()})
    return new


def log_canaries(engine: Engine) -> None:
    """Log for each queue the round trip of its last canary, in milliseconds, and how long ago it came back."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(LIST_CANARIES, {"kind": CANARY_KIND}).all()
    for row in rows:
        late = row.age_seconds > CANARY_LATE_SECONDS
        (log.warning if late else log.debug)(
            "canary_late" if late else "canary",
            queue=row.queue,
            round_trip_ms=None if row.round_trip_seconds is None else round(row.round_trip_seconds * 1000, 1),
            age_seconds=round(row.age_seconds, 1),
        )


def run_beat(settings: Settings) -> None:
    """Run beat until SIGTERM or SIGINT."""
    set_up_logs(settings, "beat")
    wait_for_schema(settings)
    database = make_engine(settings, "beat", pool_size=1)

    class BoundScheduler(SlotScheduler):
        engine = database
        bounds = QueueBounds(settings.max_queued, settings.max_queued_per_caller)

    app = make_celery_app(settings)
    log.info("beat_started")
    Beat(app=app, scheduler_cls=BoundScheduler, max_interval=BEAT_TICK_SECONDS, loglevel="WARNING", quiet=True).run()
