"""`platform.canary`: goes through relay, broker and worker of a queue, so that all three are known to work."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contracts.kind import Kind, Params, Queue, Result


class CanaryParams(Params):
    """The queue to go through."""

    queue: Annotated[Queue, Field(description="The queue to travel through.")] = "files"


class CanaryResult(Result):
    """Nothing: that it came through is all."""


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
