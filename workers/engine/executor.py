"""One attempt, start to end: decode, handle, record."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog
from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from shared import kill_points
from shared.contracts.catalog import list_kinds
from shared.contracts.kind import AnyKind
from shared.errors import is_no_room
from shared.queries.files import list_known_keys
from workers.engine.attempt import Attempt
from workers.engine.attempt_context import AttemptContext, WorkerParts, make_folder, remove_folder
from workers.engine.attempt_log import log_attempt
from workers.engine.finishing import REFUSED, UNKNOWN, OnWritten
from workers.engine.handler_catalog import Handler
from workers.outcomes import Cancelled, ClaimLost, Failed, Requeued, TimedOut
from workers.sandbox.limited_child import storage_full

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
        """Run an attempt; another thread records its end soon. Raises nothing.

        `on_recorded` is called once the end is written, or known to be someone else's to write.
        """
        task = attempt.task
        with bound_contextvars(task_id=str(task.id), kind=task.kind, attempt=task.attempt, request_id=task.request_id):
            folder = self.folder / f"{task.id}-{task.claim:x}"
            context = AttemptContext(self.parts, attempt, folder / "scratch")
            document: dict[str, Any] | None = None
            began = time.monotonic()
            try:
                document = self._handle(attempt, context, folder)
            except ClaimLost:
                log.warning("claim_lost")
            finally:
                if list_kinds()[task.kind].uses_files:
                    remove_folder(folder)
            attempt.ran_seconds = time.monotonic() - began
            attempt.ended = True
            if document is not None:
                attempt.ended_as = document["status"], document.get("error", {}).get("type")

        if document is None:
            self._on_finished(attempt, context, None, None, on_recorded)
        else:
            self._record(attempt, context, document, on_recorded)

    def _record(
        self, attempt: Attempt, context: AttemptContext, document: dict[str, Any], on_recorded: Callable[[], None]
    ) -> None:
        """Queue an end to be written. One that is not JSON, or that the database refuses, is an error of the handler."""

        def on_written(status: str | None) -> None:
            if status == REFUSED:
                fallback = self._internal_error(attempt)
                self.write_end(
                    fallback, lambda state: self._on_finished(attempt, context, fallback, state, on_recorded)
                )
            else:
                self._on_finished(attempt, context, document, status, on_recorded)

        try:
            self.write_end(document, on_written)
        except TypeError:
            log.exception("result_not_json", task_id=str(attempt.task.id))
            on_written(REFUSED)

    def _on_finished(
        self,
        attempt: Attempt,
        context: AttemptContext,
        document: dict[str, Any] | None,
        status: str | None,
        on_recorded: Callable[[], None],
    ) -> None:
        """Log the attempt's end, once it is written or lost, and delete the objects that nobody will ever reach."""
        if document is not None:
            if status is None or status in {UNKNOWN, REFUSED}:
                log.warning(
                    "finish_not_written", task_id=str(context.task_id), wanted=document["status"], because=status
                )
            else:
                log_attempt(attempt, status, document)

        def delete() -> None:
            try:
                self._delete_unreachable(context)
            finally:
                on_recorded()

        # What nobody can know is left to the hunt for orphans: an object that a file refers to must not go.
        if status not in {"succeeded", UNKNOWN} and context.artifacts:
            # A slow object store must not keep the ends of other attempts waiting.
            threading.Thread(target=delete, name="delete-artifacts", daemon=True).start()
        else:
            on_recorded()

    def _handle(self, attempt: Attempt, context: AttemptContext, folder: Path) -> dict[str, Any]:
        """Run the handler and return the document of the attempt's end. The one broad `except` of an attempt is here."""
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
            kill_points.reach("before-finish")
            artifacts = [artifact.document(position) for position, artifact in enumerate(context.artifacts)]
            return attempt.finish_document(
                "succeeded",
                result=orjson.Fragment(result.model_dump_json(by_alias=True).encode()),
                **({"artifacts": artifacts} if artifacts else {}),
            )
        except ClaimLost:
            raise
        except Requeued:
            return attempt.finish_document("queued")
        except Cancelled:
            return self._end(
                attempt, "cancelled", Failed("/problems/cancelled", "Cancelled", "A caller cancelled the task.")
            )
        except TimedOut:
            return self.time_out(attempt)
        except Failed as failed:
            return self._fail(attempt, kind, failed)
        except BaseException as error:
            if is_no_room(error):
                log.exception("no_room_for_attempt")
                return self._fail(attempt, kind, storage_full())
            # An exit too: a handler that calls one ends its attempt with it, and no more.
            log.exception("handler_failed")
            return self._internal_error(attempt)

    def _internal_error(self, attempt: Attempt) -> dict[str, Any]:
        detail = "The fault is ours, and was logged under the task's id."
        failed = Failed("/problems/internal-error", "Internal error", detail, retryable=True)
        return self._fail(attempt, list_kinds()[attempt.task.kind], failed)

    def time_out(self, attempt: Attempt) -> dict[str, Any]:
        """Return the document that ends an attempt whose time is over."""
        detail = f"The work took longer than the {attempt.task.timeout_seconds} seconds that one attempt may."
        failed = Failed("/problems/timed-out", "Timed out", detail, retryable=True)
        return self._fail(attempt, list_kinds()[attempt.task.kind], failed)

    def _fail(self, attempt: Attempt, kind: AnyKind, failed: Failed) -> dict[str, Any]:
        """End as failed, or wait for the next attempt when one is left and may help."""
        if not failed.retryable or attempt.task.attempt >= attempt.task.max_attempts:
            return self._end(attempt, "failed", failed)
        delay = failed.after_seconds
        if delay is None:
            delay = kind.retry.delay_seconds(attempt.task.attempt, random.random())  # noqa: S311 (jitter is no secret)
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
