"""One attempt, start to end: decode, handle, record."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog
from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from shared.contracts.catalog import list_kinds
from shared.contracts.kind import AnyKind
from shared.queries.files import list_known_keys
from workers.attempt import Attempt
from workers.attempt_context import AttemptContext, WorkerParts, make_folder, remove_folder
from workers.finishing import UNKNOWN, OnWritten
from workers.handler_catalog import Handler
from workers.outcomes import Cancelled, ClaimLost, Failed, HandedBack, Stopped, TimedOut

log = structlog.get_logger()


@dataclass(frozen=True)
class TaskRunner:
    """Runs attempts in the threads of one worker process."""

    parts: WorkerParts
    handlers: dict[str, Handler]
    write_end: Callable[[dict[str, Any], OnWritten], None]
    folder: Path
    """Where the folders of attempts lie."""

    def run(self, attempt: Attempt, on_recorded: Callable[[], None]) -> None:
        """Do an attempt's work and have its end recorded, soon and by whichever thread; raises nothing.

        `on_recorded` is called once the end is written, or known to be someone else's to write.
        """
        task = attempt.task
        with bound_contextvars(task_id=str(task.id), kind=task.kind, attempt=task.attempt, request_id=task.request_id):
            folder = self.folder / f"{task.id}-{task.claim:x}"
            context = AttemptContext(self.parts, attempt, folder / "scratch")
            document: dict[str, Any] | None = None
            try:
                document = self._handle(attempt, context, folder)
            except ClaimLost:
                log.warning("claim_lost")
            finally:
                if list_kinds()[task.kind].uses_files:
                    remove_folder(folder)
            attempt.ended = True

        def record(status: str | None) -> None:
            try:
                if document is not None and status in {None, UNKNOWN}:
                    log.warning(
                        "end_not_written", task_id=str(task.id), wanted=document["status"], is_lost=status is None
                    )
                # What nobody can know is left to the hunt for orphans: an object that a file refers to must not go.
                if status not in {"succeeded", UNKNOWN} and context.artifacts:
                    self._delete_unreachable(context)
            finally:
                on_recorded()

        if document is None:
            record(None)
        else:
            self.write_end(document, record)

    def _handle(self, attempt: Attempt, context: AttemptContext, folder: Path) -> dict[str, Any]:
        """Do the work and give the document of the attempt's end. The one broad `except` of an attempt is here."""
        kind = list_kinds()[attempt.task.kind]
        try:
            attempt.check()
            try:
                params = kind.params.model_validate_json(attempt.task.params)
            except ValidationError as error:
                log.error("unreadable_params", problems=error.error_count())
                raise Failed(
                    "/problems/unreadable-params",
                    "Unreadable params",
                    "The stored params do not fit the kind any more.",
                ) from None
            if kind.uses_files:
                make_folder(folder)
            result = self.handlers[attempt.task.kind](params, context)
            artifacts = [artifact.document(position) for position, artifact in enumerate(context.artifacts)]
            return attempt.finish_document(
                "succeeded",
                result=orjson.Fragment(result.model_dump_json(by_alias=True).encode()),
                **({"artifacts": artifacts} if artifacts else {}),
            )
        except ClaimLost:
            raise
        except HandedBack:
            log.info("handed_back")
            return attempt.finish_document("queued")
        except Cancelled:
            return self._end(
                attempt, "cancelled", Failed("/problems/cancelled", "Cancelled", "A caller cancelled the task.")
            )
        except TimedOut:
            return self.time_out(attempt)
        except Failed as failed:
            return self._fail(attempt, kind, failed)
        except (Exception, Stopped):
            log.exception("handler_failed")
            detail = "The fault is ours, and was logged under the task's id."
            return self._fail(
                attempt, kind, Failed("/problems/internal-error", "Internal error", detail, retryable=True)
            )

    def time_out(self, attempt: Attempt) -> dict[str, Any]:
        """Give the document that ends an attempt whose time is over."""
        detail = f"The work took longer than the {attempt.task.timeout_seconds} seconds that one attempt may."
        failed = Failed("/problems/timed-out", "Timed out", detail, retryable=True)
        return self._fail(attempt, list_kinds()[attempt.task.kind], failed)

    def _fail(self, attempt: Attempt, kind: AnyKind, failed: Failed) -> dict[str, Any]:
        """End as failed, or wait for the next attempt when one is left and may help."""
        if not failed.retryable or attempt.task.attempt >= attempt.task.max_attempts:
            log.info("task_failed", type=failed.type)
            return self._end(attempt, "failed", failed)
        delay = failed.after_seconds
        if delay is None:
            delay = kind.retry.delay_seconds(attempt.task.attempt, random.random())  # noqa: S311 (jitter is no secret)
        log.info("attempt_failed", type=failed.type, next_in_seconds=round(delay, 1))
        return {**self._end(attempt, "retrying", failed), "delay": delay}

    def _end(self, attempt: Attempt, status: str, failed: Failed) -> dict[str, Any]:
        error = {
            "type": failed.type,
            "title": failed.title,
            "detail": failed.detail,
            "retryable": failed.retryable,
            "attempt": attempt.task.attempt,
            "data": failed.data or {},
        }
        return attempt.finish_document(status, error=error)

    def _delete_unreachable(self, context: AttemptContext) -> None:
        """Delete the objects of artifacts that no file refers to.

        An end whose answer was lost may have been committed all the same: the database is asked, never guessed at.
        """
        keys = [artifact.storage_key for artifact in context.artifacts]
        with self.parts.engine.connect() as connection:
            known = set(connection.execute(list_known_keys(keys)).scalars())
        self.parts.store.delete([key for key in keys if key not in known])
