"""`platform.canary`: passes through the relay, the broker and a worker of a queue, to show that all three work."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contracts.kind import Kind, Params, Queue, Result


class CanaryParams(Params):
    """Which queue to test."""

    queue: Annotated[Queue, Field(description="The queue to travel through.")] = "files"


class CanaryResult(Result):
    """There is no result: a canary that succeeds is enough."""


KIND = Kind(
    params=CanaryParams,
    result=CanaryResult,
    title="Canary",
    description="Goes through a queue and does nothing; how long it was on its way stands in `/health/ready`.",
    queue=lambda params: params.queue,
    max_attempts=1,
    timeout_seconds=30,
    short=True,
    uses_files=False,
    public=False,
)
