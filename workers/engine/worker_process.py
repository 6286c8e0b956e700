"""A worker process: a Celery worker with a pool of threads, around an engine that claims, renews and finishes together.

Threads suffice, because what burns processor time or touches untrusted bytes runs in a limited child.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import warnings
from typing import Any, Final

import structlog
from celery import signals

from shared.contracts.kind import QUEUES
from shared.database.connections import connect_hot, make_engine
from shared.database.schema_version import wait_for_schema
from shared.errors import ConfigurationError
from shared.log_setup import set_up_logs
from shared.outage_log import OutageLog
from shared.ready_notice import notify_ready
from shared.settings import Settings
from shared.storage.open_store import open_object_store
from workers.celery_app import make_celery_app
from workers.engine.activity import Activity
from workers.engine.attempt import Attempt, ClaimedTask
from workers.engine.attempt_context import WorkerParts
from workers.engine.attempt_log import LOG_EVENTS, log_attempt
from workers.engine.celery_consumer import CeleryExecutor, bind_consumer
from workers.engine.claiming import Claimer
from workers.engine.consumer_watch import ConsumerWatch
from workers.engine.executor import TaskRunner
from workers.engine.finishing import Finisher
from workers.engine.handler_catalog import load_handlers
from workers.engine.heartbeat import Heartbeat
from workers.engine.progress_writer import ProgressWriter
from workers.engine.scratch_folder import ScratchFolder
from workers.outcomes import ClaimLost, Requeued
from workers.sandbox.memory_dumps import forbid_memory_dumps

log = structlog.get_logger()

LOOP_SILENT_SECONDS: Final = 10.0
"""A consumer whose loop has not run for so long hangs, or has no broker."""
REQUEUE_SECONDS: Final = 2.0
"""How long running attempts may take to stop when they are requeued at a shutdown, before the process ends without them."""


class WorkerProcess:
    """Everything that one worker process runs."""

    def __init__(self, settings: Settings, queues: list[str], concurrency: int) -> None:
        self._settings = settings
        self._queues = queues
        self._concurrency = concurrency
        self._attempts: dict[str, Attempt] = {}
        outage = OutageLog("database")
        self._finisher = Finisher(settings, outage)
        self._name = f"{'-'.join(queues)}-{os.getpid()}-{secrets.token_hex(2)}@{socket.gethostname()}"
        self._claimer = Claimer(settings, self._name, queues, concurrency, self._start, outage)
        self._activity = Activity()
        self._heartbeat = Heartbeat(
            settings,
            lambda: list(self._attempts.values()),
            self._end_stuck,
            self._on_waiting,
            worker=self._name,
            queues=queues,
            slots=concurrency,
            activity=self._activity,
            consumes=self._consumes,
            outage=outage,
        )
        self._watch = ConsumerWatch(settings, queues, self, self._end_for_another)
        self._worked_at = time.monotonic()
        self._exit_code: int | None = None
        """What the process exits with once it has drained; None when Celery itself brings it to its end."""
        self._scratch = ScratchFolder(settings)
        self._draining = threading.Event()
        progress = ProgressWriter(
            lambda: connect_hot(settings, "worker-progress", durable=False), self._finisher.wake_waiters
        )
        parts = WorkerParts(
            settings,
            make_engine(settings, "worker", pool_size=concurrency + 1),
            open_object_store(settings.storage_url),
            progress,
        )
        self._runner = TaskRunner(parts, load_handlers(), self._finisher.write_soon, self._scratch.path)
        self._app = make_celery_app(settings)
        self._app.conf.broker_transport = "workers.engine.tolerant_transport:TolerantTransport"
        self._executor = CeleryExecutor(self._app, self._run_task)
        self._app.conf.worker_consumer = bind_consumer(self._claimer, self._executor)

    def run(self) -> None:
        """Work until a signal: SIGTERM finishes short attempts and requeues the rest."""
        signals.worker_ready.connect(_notify_ready, weak=False)
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        self._finisher.start()
        self._claimer.start()
        self._heartbeat.start()
        worker = self._app.Worker(
            hostname=self._name,
            pool="threads",
            concurrency=self._concurrency,
            queues=self._queues,
            without_gossip=True,
            without_mingle=True,
            loglevel="WARNING",
            quiet=True,
        )
        log.info("worker_started", queues=self._queues, concurrency=self._concurrency)
        self._watch.start()
        try:
            worker.start()
        finally:
            self._watch.stop()
            self._claimer.stop()
            self._requeue_all()
            self._heartbeat.stop()
            self._finisher.close()
            self._scratch.remove()
            log.info("worker_stopped")

    def _start(self, task: ClaimedTask) -> None:
        """Hand a claimed task to the pool. One that the pool does not take, because it stops, is requeued."""
        attempt = Attempt(task)
        if older := self._attempts.get(str(task.id)):
            # It was stopped for longer than its lease, or its task would not have been claimed again.
            older.stop(ClaimLost())
        self._attempts[str(task.id)] = attempt
        try:
            self._executor.execute(attempt)
        except Exception:
            log.exception("attempt_not_started", task_id=str(task.id))
            self._requeue_waiting([attempt])

    def _run_task(self, task_id: str) -> None:
        """Run the attempt of a task, unless it was requeued because it had waited for too long."""
        if attempt := self._attempts.get(task_id):
            self._run_attempt(attempt)

    def _run_attempt(self, attempt: Attempt) -> None:
        if not attempt.begin():
            return
        started = time.perf_counter()
        self._activity.note_start(attempt.task)
        try:
            self._runner.run(attempt, lambda: self._forget(attempt))
        except Exception:
            # What is renewed no more is taken back; what were renewed for ever would never end.
            log.exception("attempt_not_finished", task_id=str(attempt.task.id))
            self._forget(attempt)
        finally:
            self._worked_at = time.monotonic()
            self._activity.note_end(attempt.task)
            self._claimer.free_slot(time.perf_counter() - started)

    def _forget(self, attempt: Attempt) -> None:
        """Renew the attempt's lease no more; another attempt at the same task may be held here by now."""
        task_id = str(attempt.task.id)
        if self._attempts.get(task_id) is attempt:
            del self._attempts[task_id]

    def _on_shutting_down(self, **_: Any) -> None:
        if not self._draining.is_set():
            self._draining.set()
            threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        """Claim no more; hand back what has not begun, and, when the grace is over, what has; then end at all costs."""
        self._watch.stop()
        # Nothing that does not answer, a broker, a database or a handler, may keep the process for longer.
        self._exit_at_last(self._settings.shutdown_grace_seconds + REQUEUE_SECONDS + 1, self._exit_code or 0)
        self._claimer.stop()
        self._requeue_waiting(list(self._attempts.values()))
        deadline = time.monotonic() + self._settings.shutdown_grace_seconds
        while self._attempts and time.monotonic() < deadline:
            time.sleep(0.05)
        for attempt in list(self._attempts.values()):
            attempt.stop(Requeued())
        deadline = time.monotonic() + REQUEUE_SECONDS
        while self._attempts and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._attempts:
            log.warning("stopped_with_stuck_threads", attempts=len(self._attempts))
            self._requeue_all()
        elif self._exit_code is None:
            return
        self._scratch.remove()
        os._exit(self._exit_code or 0)

    def _requeue_all(self) -> None:
        for attempt in list(self._attempts.values()):
            if not attempt.ended:
                self._requeue(attempt)

    def _requeue_waiting(self, attempts: list[Attempt]) -> None:
        """Hand back attempts that have not begun: the relay rings for their tasks at once."""
        for attempt in attempts:
            if attempt.withdraw():
                attempt.stop(Requeued())
                # Before the task can be claimed again, or Flower would show this event as the last one.
                self._executor.announce_requeue(attempt)
                self._end_soon(attempt, attempt.finish_document("queued"))
                self._claimer.free_slot(None)

    def _on_waiting(self, attempts: list[Attempt]) -> None:
        """Claim no more ahead for now, and hand back what has waited for a thread for long: another worker may be idle."""
        self._claimer.slow_down()
        self._requeue_waiting(attempts)

    def _requeue(self, attempt: Attempt) -> None:
        attempt.stop(Requeued())
        document = attempt.finish_document("queued")
        if (status := self._finisher.write(document)) in LOG_EVENTS:
            log_attempt(attempt, status, document)
        attempt.ended = True
        self._forget(attempt)

    def _end_stuck(self, attempt: Attempt) -> None:
        """End an attempt whose thread does not come back, and this process with it, for the thread is lost."""
        log.error("thread_stuck", task_id=str(attempt.task.id), kind=attempt.task.kind)
        self._end_soon(attempt, self._runner.time_out(attempt))
        self._end_for_another()

    def _end_soon(self, attempt: Attempt, document: dict[str, Any]) -> None:
        """Queue an end to be written without waiting for it: the calling thread has leases to renew or tasks to claim."""
        attempt.ended = True

        def on_written(status: str | None) -> None:
            self._forget(attempt)
            if status in LOG_EVENTS:
                log_attempt(attempt, status, document)

        self._finisher.write_soon(document, on_written)

    def _consumes(self) -> bool:
        """Return whether the consumer's loop has turned lately."""
        return time.monotonic() - self._executor.loop_ran_at < LOOP_SILENT_SECONDS

    def wants_messages(self) -> bool:
        """Return whether messages are wanted; while the database is away, claims wait and they are not."""
        return self._claimer.wants_messages()

    def is_running(self) -> bool:
        """Return whether an attempt runs. Those that wait for a slot do not count, since they may wait without end."""
        return any(attempt.started for attempt in list(self._attempts.values()))

    def last_message_at(self) -> float:
        """When the broker gave a message last, by the monotonic clock."""
        return self._claimer.last_message_at

    def last_attempt_ended_at(self) -> float:
        """When an attempt ended last, by the monotonic clock."""
        return self._worked_at

    def _end_for_another(self) -> None:
        """End a process that is of no more use, as a shutdown does, so that another takes its place."""
        self._exit_code = 1
        signals.worker_shutting_down.send(sender=None, sig="lost", how="warm", exitcode=1)

    def _exit_at_last(self, seconds: float, exit_code: int) -> None:
        """End the process after so many seconds, if it is still there then."""

        def end() -> None:
            time.sleep(seconds)
            log.warning("stopped_by_force", attempts=len(self._attempts))
            self._scratch.remove()
            os._exit(exit_code)

        threading.Thread(target=end, name="exit", daemon=True).start()


def _notify_ready(**_: object) -> None:
    notify_ready()


def run_worker(settings: Settings, queues: list[str], concurrency: int | None) -> None:
    """Run a worker for these queues until told to stop. Raises `ConfigurationError` for an unknown queue."""
    if unknown := set(queues) - set(QUEUES):
        raise ConfigurationError(f"unknown queues: {', '.join(sorted(unknown))}; there are {', '.join(QUEUES)}")
    # It holds the secrets of the settings and reads callers' files.
    forbid_memory_dumps()
    set_up_logs(settings, f"worker-{'-'.join(queues)}")
    wait_for_schema(settings)
    # Celery warns of root because of messages that could run code; ours are JSON and bear ids only.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    WorkerProcess(settings, queues, concurrency or settings.worker_concurrency).run()
