"""A worker process: a Celery worker with a pool of threads, and around it the threads that claim, renew and finish.

What happens to one task is in `executor.py`; here the parts are put together, started and stopped. Threads suffice, because
what burns processor time or touches untrusted bytes runs in a limited child.
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
from workers.engine.celery_consumer import CeleryPool, bind_consumer
from workers.engine.claiming import Claimer
from workers.engine.consumer_watch import ConsumerWatch
from workers.engine.event_receivers import EventReceivers
from workers.engine.executor import Executor
from workers.engine.finishing import Finisher
from workers.engine.handler_catalog import load_handlers
from workers.engine.heartbeat import Heartbeat
from workers.engine.progress_writer import ProgressWriter
from workers.engine.scratch_folder import ScratchFolder
from workers.engine.start_wake_ups import StartWakeUps
from workers.engine.task_log_writer import TaskLogWriter
from workers.sandbox.confinement import find_confinement
from workers.sandbox.memory_dumps import forbid_memory_dumps

log = structlog.get_logger()

LOOP_SILENT_SECONDS: Final = 10.0
"""A consumer whose loop has not run for so long hangs, or has no broker."""
REQUEUE_SECONDS: Final = 2.0
"""How long running attempts may take to stop when they are requeued at a shutdown, before the process ends without them."""
DRAIN_CHECK_SECONDS: Final = 0.05


class WorkerProcess:
    """Everything that one worker process runs."""

    def __init__(self, settings: Settings, queues: list[str], concurrency: int) -> None:
        self._settings = settings
        self._queues = queues
        self._concurrency = concurrency
        self._name = f"{'-'.join(queues)}-{os.getpid()}-{secrets.token_hex(2)}@{socket.gethostname()}"
        self._exit_code: int | None = None
        """What the process exits with once it has drained; None when Celery itself ends it."""
        self._draining = threading.Event()
        self._scratch = ScratchFolder(settings)
        self._app = make_celery_app(settings)
        self._app.conf.broker_transport = "workers.engine.tolerant_transport:TolerantTransport"
        self._activity = Activity()
        outage = OutageLog("database")
        self._finisher = Finisher(settings, outage)
        parts = WorkerParts(
            settings,
            make_engine(settings, "worker", pool_size=concurrency + 1),
            open_object_store(settings.storage_url),
            ProgressWriter(
                lambda: connect_hot(settings, "worker-progress", durable=False), self._finisher.wake_waiters
            ),
            TaskLogWriter(lambda: connect_hot(settings, "worker-log", durable=False), self._finisher.wake_waiters),
        )
        self._receivers = EventReceivers(settings)
        self._pool = CeleryPool(self._app, lambda task_id: self._executor.run(task_id))
        self._executor = Executor(
            parts,
            load_handlers(),
            self._pool,
            self._finisher,
            self._scratch.path,
            activity=self._activity,
            free_slot=lambda seconds: self._claimer.free_slot(seconds),
        )
        self._wake_ups = StartWakeUps(
            self._finisher.wake_waiters, lambda: [attempt.task.id for attempt in self._executor.list_attempts()]
        )
        self._claimer = Claimer(settings, self._name, queues, concurrency, self._start, outage)
        self._heartbeat = Heartbeat(
            settings,
            self._executor.list_attempts,
            self._end_stuck,
            self._requeue_waiting,
            worker=self._name,
            queues=queues,
            slots=concurrency,
            activity=self._activity,
            consumes=self._consumes,
            outage=outage,
        )
        self._watch = ConsumerWatch(settings, queues, self, self._end_for_another)
        self._app.conf.worker_consumer = bind_consumer(self._claimer, self._pool, self._receivers)

    def run(self) -> None:
        """Work until a signal: SIGTERM finishes short attempts and requeues the others."""
        signals.worker_ready.connect(_notify_ready, weak=False)
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        self._finisher.start()
        self._wake_ups.start()
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
        log.info(
            "worker_started",
            queues=self._queues,
            concurrency=self._concurrency,
            confines_children=find_confinement()._asdict(),
        )
        self._watch.start()
        if not self._settings.worker_remote_control:
            self._receivers.start()
        try:
            worker.start()
        finally:
            self._watch.stop()
            self._receivers.stop()
            self._claimer.stop()
            self._executor.requeue_all()
            self._heartbeat.stop()
            self._wake_ups.stop()
            self._finisher.close()
            self._scratch.remove()
            log.info("worker_stopped")

    def _start(self, task: ClaimedTask) -> None:
        self._executor.start(task)
        self._wake_ups.send_soon(task.id)

    def _on_shutting_down(self, **_: Any) -> None:
        if not self._draining.is_set():
            self._draining.set()
            threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        """Claim nothing more, requeue what has not begun, and, when the grace is over, what has; then end the process."""
        self._watch.stop()
        # A broker, a database or a handler that does not answer must not delay the end of the process any longer.
        self._exit_at_last(self._settings.shutdown_grace_seconds + REQUEUE_SECONDS + 1, self._exit_code or 0)
        self._claimer.stop()
        self._executor.requeue_waiting(self._executor.list_attempts())
        self._wait_for_attempts(self._settings.shutdown_grace_seconds)
        self._executor.stop_running()
        self._wait_for_attempts(REQUEUE_SECONDS)
        if left := len(self._executor.list_attempts()):
            log.warning("stopped_with_stuck_threads", attempts=left)
            self._executor.requeue_all()
        elif self._exit_code is None:
            return
        self._scratch.remove()
        os._exit(self._exit_code or 0)

    def _wait_for_attempts(self, seconds: float) -> None:
        """Wait until no attempt is left, for so many seconds at most."""
        deadline = time.monotonic() + seconds
        while self._executor.list_attempts() and time.monotonic() < deadline:
            time.sleep(DRAIN_CHECK_SECONDS)

    def _exit_at_last(self, seconds: float, exit_code: int) -> None:
        """End the process after so many seconds, if it still runs then."""

        def end() -> None:
            time.sleep(seconds)
            log.warning("stopped_by_force", attempts=len(self._executor.list_attempts()))
            self._scratch.remove()
            os._exit(exit_code)

        threading.Thread(target=end, name="exit", daemon=True).start()

    # What the heartbeat and the watch find.

    def _requeue_waiting(self, attempts: list[Attempt]) -> None:
        """Claim nothing ahead for now, and requeue what has waited too long for a slot: another worker may be idle."""
        self._claimer.slow_down()
        self._executor.requeue_waiting(attempts)

    def _end_stuck(self, attempt: Attempt) -> None:
        """Finish an attempt whose thread does not stop, and end this process: the thread cannot be used again."""
        self._executor.end_stuck(attempt)
        self._end_for_another()

    def _end_for_another(self) -> None:
        """End this process as in a shutdown, so that its supervisor starts another in its place."""
        self._exit_code = 1
        signals.worker_shutting_down.send(sender=None, sig="lost", how="warm", exitcode=1)

    def _consumes(self) -> bool:
        """Return whether the consumer's loop has run lately."""
        return time.monotonic() - self._pool.loop_ran_at < LOOP_SILENT_SECONDS

    # What the watch asks (`consumer_watch.Watched`).

    def wants_messages(self) -> bool:
        """Return whether messages are wanted; while the database is away, claims wait and they are not."""
        return self._claimer.wants_messages()

    def is_running(self) -> bool:
        """Return whether an attempt runs. Those that wait for a slot do not count, since they may wait without end."""
        return any(attempt.started for attempt in self._executor.list_attempts())

    def last_message_at(self) -> float:
        """Return when the last message arrived, by the monotonic clock."""
        return self._claimer.last_message_at

    def last_attempt_ended_at(self) -> float:
        """Return when the last attempt ended, by the monotonic clock."""
        return self._executor.last_attempt_ended_at


def _notify_ready(**_: object) -> None:
    notify_ready()


def run_worker(settings: Settings, queues: list[str], concurrency: int | None) -> None:
    """Run a worker for these queues until SIGTERM or SIGINT. Raises `ConfigurationError` for an unknown queue."""
    if unknown := set(queues) - set(QUEUES):
        raise ConfigurationError(f"unknown queues: {', '.join(sorted(unknown))}; there are {', '.join(QUEUES)}")
    # It holds the secrets of the settings and reads callers' files.
    forbid_memory_dumps()
    set_up_logs(settings, f"worker-{'-'.join(queues)}")
    wait_for_schema(settings)
    # Celery warns of root because of messages that could run code; ours are JSON and bear ids only.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    WorkerProcess(settings, queues, concurrency or settings.worker_concurrency).run()
