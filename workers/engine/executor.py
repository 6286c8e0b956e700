"""Takes each claimed task through its attempt. The steps, in order, and the threads that run them:

    claim     claimer     claims the task (`claiming.py`) and calls `start`
    start     claimer     from here on the heartbeat renews the lease; the attempt waits for a slot of the pool
    run       slot        decodes the params, calls the handler, and turns what it returns or raises into a finish
    finish    finisher    writes the finish together with others (`finishing.py`), then calls `_on_written`
    written   finisher    logs the attempt, deletes artifacts that no task has, and ends the renewal of the lease

An attempt that cannot take these steps is ended from outside: `requeue_waiting`, `requeue_all`, `end_stuck`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import structlog
from pydantic import ValidationError

from shared import kill_points
from shared.contracts.catalog import list_kinds
from shared.contracts.kind import RetryPolicy
from shared.errors import is_no_room
from shared.log_setup import log_fields
from shared.queries.files import list_known_keys
from shared.stored_secrets import SecretCipher, UnreadableSecret
from shared.tasks.secret_params import open_params
from workers.engine.activity import Activity
from workers.engine.attempt import Attempt, ClaimedTask
from workers.engine.attempt_context import AttemptContext, WorkerParts
from workers.engine.attempt_log import LOG_EVENTS, log_attempt
from workers.engine.finishing import REFUSED, UNKNOWN, Finisher
from workers.engine.handler_catalog import Handler
from workers.outcomes import Cancelled, ClaimLost, Failed, Requeued, TimedOut
from workers.sandbox.limited_child import storage_full

log = structlog.get_logger()

UNREADABLE_SECRET: Final = (
    "A secret of the params cannot be decrypted where the task ran: its key is not among TASKMILL_ENCRYPTION_KEYS there. Add it, "
    "then retry the task."
)


class Pool(Protocol):
    """The slots in which attempts run."""

    def execute(self, attempt: Attempt) -> None:
        """Call `Executor.run` with the id of the attempt's task as soon as a slot is free."""

    def announce_requeue(self, attempt: Attempt) -> None:
        """Send the event that ends an attempt which was requeued before it began."""


class Executor:
    """Runs the attempts of one worker process."""

    def __init__(
        self,
        parts: WorkerParts,
        handlers: Mapping[str, Handler],
        pool: Pool,
        finisher: Finisher,
        folder: Path,
        *,
        activity: Activity,
        free_slot: Callable[[float | None], None],
    ) -> None:
        """Create an executor. In `folder`, each attempt gets a folder of its own.

        `free_slot` is called with the seconds that an attempt ran, or with None if it was requeued before it began.
        """
        self._parts = parts
        self._handlers = handlers
        self._pool = pool
        self._finisher = finisher
        self._folder = folder
        self._activity = activity
        self._free_slot = free_slot
        self._cipher = SecretCipher(parts.settings)
        self._attempts: dict[str, Attempt] = {}
        """Those whose leases are renewed, by the id of their task."""
        self.last_attempt_ended_at = time.monotonic()
        """When a handler ended last, by the monotonic clock."""

    def list_attempts(self) -> list[Attempt]:
        """Return the attempts whose leases must be renewed: they wait for a slot, run, or are not finished yet."""
        return list(self._attempts.values())

    # An attempt, from its claim to its finish.

    def start(self, task: ClaimedTask) -> None:
        """Register an attempt at a claimed task, and pass it to the pool. If the pool stops, the task is requeued."""
        attempt = Attempt(task)
        if older := self._attempts.get(attempt.task_id):
            # This process was stopped for longer than the lease: otherwise the task could not have been claimed again.
            older.stop(ClaimLost())
        self._attempts[attempt.task_id] = attempt
        try:
            self._pool.execute(attempt)
        except Exception:
            log.exception("attempt_not_started", task_id=attempt.task_id)
            self.requeue_waiting([attempt])

    def run(self, task_id: str) -> None:
        """Run the attempt at a task in this thread, unless it was requeued while it waited for a slot. Raises nothing."""
        attempt = self._attempts.get(task_id)
        if attempt is None or not attempt.begin():
            return
        task = attempt.task
        self._activity.note_start(task)
        try:
            with log_fields(task_id=task_id, kind=task.kind, attempt=task.attempt, request_id=task.request_id):
                context = AttemptContext(self._parts, attempt, self._folder)
                try:
                    document = self._handle(attempt, context)
                finally:
                    if list_kinds()[task.kind].uses_files:
                        context.remove_folders()
                context.finish_log()
                attempt.end(document)
            self._finish(attempt, context, document)
        except Exception:
            # Without renewal, the task is swept. If the lease were renewed for ever, the task would never end.
            log.exception("attempt_not_finished", task_id=task_id)
            self._stop_renewing(attempt)
        finally:
            self.last_attempt_ended_at = time.monotonic()
            self._activity.note_end(task)
            self._free_slot(attempt.ran_seconds)

    def _handle(self, attempt: Attempt, context: AttemptContext) -> dict[str, Any] | None:
        """Call the handler, and return the document of the finish, or None if the claim is lost.

        The one broad `except` of an attempt is here.
        """
        kind = list_kinds()[attempt.task.kind]
        try:
            attempt.check()
            try:
                params = kind.params.model_validate_json(open_params(kind, attempt.task.params, self._cipher))
            except UnreadableSecret as error:
                log.error("unreadable_secret", reason=str(error))
                raise Failed("/problems/unreadable-secret", "Unreadable secret", UNREADABLE_SECRET) from None
            except ValidationError as error:
                log.error("unreadable_params", problems=error.error_count())
                raise Failed(
                    "/problems/unreadable-params",
                    "Unreadable params",
                    _describe_misfit(error),
                ) from None
            if kind.uses_files:
                context.make_folders()
            result = self._handlers[attempt.task.kind](params, context)
            kill_points.reach("before-finish")
            artifacts = [artifact.document(position) for position, artifact in enumerate(context.artifacts)]
            return attempt.finish_document(
                "succeeded",
                result=orjson.Fragment(result.model_dump_json(by_alias=True).encode()),
                **({"artifacts": artifacts} if artifacts else {}),
            )
        except ClaimLost:
            log.warning("claim_lost")
            return None
        except Requeued:
            return attempt.finish_document("queued")
        except Cancelled:
            return _cancelled(attempt)
        except TimedOut:
            return _timed_out(attempt)
        except Failed as failed:
            return _failed(attempt, failed)
        except BaseException as error:
            if is_no_room(error):
                log.exception("no_room_for_attempt")
                return _failed(attempt, storage_full())
            # An exit too: a handler that calls one ends its attempt with it, and no more.
            log.exception("handler_failed")
            return _internal_error(attempt)

    def _finish(self, attempt: Attempt, context: AttemptContext, document: dict[str, Any] | None) -> None:
        """Queue the finish. One that is not JSON, or that the database refuses, becomes an internal error of the handler."""
        if document is None:
            self._on_written(attempt, context, None, None)
            return

        def on_written(status: str | None) -> None:
            if status == REFUSED:
                fallback = _internal_error(attempt)
                self._finisher.write_soon(fallback, lambda status: self._on_written(attempt, context, fallback, status))
            else:
                self._on_written(attempt, context, document, status)

        try:
            self._finisher.write_soon(document, on_written)
        except TypeError:
            log.exception("result_not_json", task_id=attempt.task_id)
            on_written(REFUSED)

    def _on_written(
        self, attempt: Attempt, context: AttemptContext, document: dict[str, Any] | None, status: str | None
    ) -> None:
        """Log the attempt, delete the artifacts that no task has, and renew the lease no more.

        `status` is what the task has become by the document; see `finishing.OnWritten`.
        """
        if document is not None:
            if status in LOG_EVENTS:
                log_attempt(attempt, status, document)
            else:
                log.warning("finish_not_written", task_id=attempt.task_id, wanted=document["status"], because=status)
        # If it is unknown whether the finish was written, a file may refer to the objects: they are left to the daily
        # deletion of orphans.
        if context.artifacts and status not in {"succeeded", UNKNOWN}:
            # A slow object store must not delay the finishes of other attempts.
            threading.Thread(
                target=self._delete_artifacts, args=(attempt, context), name="delete-artifacts", daemon=True
            ).start()
        else:
            self._stop_renewing(attempt)

    def _delete_artifacts(self, attempt: Attempt, context: AttemptContext) -> None:
        """Delete the objects of artifacts that no file refers to.

        A finish whose reply was lost may have been committed all the same, so the database is asked which files it has.
        """
        try:
            keys = [artifact.storage_key for artifact in context.artifacts]
            with self._parts.engine.connect() as connection:
                known = set(connection.execute(list_known_keys(keys)).scalars())
            self._parts.store.delete([key for key in keys if key not in known])
        finally:
            self._stop_renewing(attempt)

    def _stop_renewing(self, attempt: Attempt) -> None:
        # By now, another attempt at the same task may be registered.
        if self._attempts.get(attempt.task_id) is attempt:
            del self._attempts[attempt.task_id]

    # Attempts that are ended from outside.

    def requeue_waiting(self, attempts: Iterable[Attempt]) -> None:
        """Requeue those of the attempts that have not begun, without waiting for the database."""
        for attempt in attempts:
            if attempt.withdraw():
                attempt.stop(Requeued())
                # Before the task can be claimed again, or Flower would show this event as the last one.
                self._pool.announce_requeue(attempt)
                self._finish_from_outside(attempt, attempt.finish_document("queued"))
                self._free_slot(None)

    def stop_running(self) -> None:
        """Stop every attempt at its next check, so that its task is requeued."""
        for attempt in self.list_attempts():
            attempt.stop(Requeued())

    def requeue_all(self) -> None:
        """Requeue the tasks of all attempts that have not ended, and wait until that is written. For threads that do not stop."""
        for attempt in self.list_attempts():
            if not attempt.ended:
                attempt.stop(Requeued())
                attempt.ended = True
                document = attempt.finish_document("queued")
                self._log_outside_finish(attempt, document, self._finisher.write(document))

    def end_stuck(self, attempt: Attempt) -> None:
        """Finish an attempt as timed out whose thread does not stop."""
        log.error("thread_stuck", task_id=attempt.task_id, kind=attempt.task.kind)
        self._finish_from_outside(attempt, _timed_out(attempt))

    def _finish_from_outside(self, attempt: Attempt, document: dict[str, Any]) -> None:
        """Queue a finish without waiting: the calling thread has leases to renew or tasks to claim."""
        attempt.ended = True
        self._finisher.write_soon(document, lambda status: self._log_outside_finish(attempt, document, status))

    def _log_outside_finish(self, attempt: Attempt, document: dict[str, Any], status: str | None) -> None:
        self._stop_renewing(attempt)
        if status in LOG_EVENTS:
            log_attempt(attempt, status, document)


# How an attempt ends: the documents for `hot_tasks.FINISH_ANY`.


def _cancelled(attempt: Attempt) -> dict[str, Any]:
    return _document(attempt, "cancelled", Failed("/problems/cancelled", "Cancelled", "A caller cancelled the task."))


def _timed_out(attempt: Attempt) -> dict[str, Any]:
    detail = f"The work took longer than the {attempt.task.timeout_seconds} seconds that one attempt may."
    return _failed(attempt, Failed("/problems/timed-out", "Timed out", detail, retryable=True))


def _internal_error(attempt: Attempt) -> dict[str, Any]:
    detail = (
        "An unexpected error, which was logged with the task's id. If a retry fails too, report the id to the operator."
    )
    return _failed(attempt, Failed("/problems/internal-error", "Internal error", detail, retryable=True))


def _failed(attempt: Attempt, failed: Failed) -> dict[str, Any]:
    """End as `retrying` if another attempt is left and may help, else as `failed`."""
    if not failed.retryable or attempt.task.attempt >= attempt.task.max_attempts:
        return _document(attempt, "failed", failed)
    delay = failed.after_seconds
    if delay is None:
        jitter = random.random()  # noqa: S311 (jitter is no secret)
        own = attempt.task.backoff
        policy = list_kinds()[attempt.task.kind].retry if own is None else RetryPolicy(**orjson.loads(own))
        delay = policy.delay_seconds(attempt.task.attempt, jitter)
    return {**_document(attempt, "retrying", failed), "delay": delay}


def _document(attempt: Attempt, status: str, failed: Failed) -> dict[str, Any]:
    error = {
        "type": failed.type,
        "title": failed.title,
        "detail": failed.detail,
        "retryable": failed.retryable,
        "attempt": attempt.task.attempt,
        "data": failed.data or {},
    }
    return attempt.finish_document(status, error=error)


def _describe_misfit(error: ValidationError) -> str:
    """Return which params do not fit their kind, without their values."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    faults = "; ".join(f"/{'/'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:5])
    return (
        f"The params do not fit the kind: {faults}. They were stored for another version of the kind, or are values of earlier "
        "steps of a workflow."
    )
