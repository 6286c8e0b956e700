"""`platform.canary`: passes through the relay, the broker and a worker of a queue, to see that all three work."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contracts.kind import Kind, Params, Queue, Result


class CanaryParams(Params):
    """The queue to check."""

    queue: Annotated[Queue, Field(description="The queue to check.")] = "files"


class CanaryResult(Result):
    """It has no fields: the task only has to succeed."""


KIND = Kind(
    params=CanaryParams,
    result=CanaryResult,
    title="Canary",
    description="Passes through a queue and does nothing. `GET /health/ready` shows how long that took.",
    queue=lambda params: params.queue,
    max_attempts=1,
    timeout_seconds=30,
    short=True,
    uses_files=False,
    public=False,
)
