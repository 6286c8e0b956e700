"""`platform.ping`: does nothing for so long, and answers. Faults and benches are made of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.kind import Kind, Params, Result


class PingParams(Params):
    """What to echo, how long to take, and on which queue."""

    echo: Annotated[str | None, Field(max_length=1000, description="Given back in the result.")] = None
    sleep_ms: Annotated[int, Field(ge=0, le=60_000, description="How long to do nothing, in milliseconds.")] = 0
    queue: Annotated[Literal["email", "files", "reports"], Field(description="The queue to travel through.")] = "files"


class PingResult(Result):
    """The echo."""

    echo: str | None


KIND = Kind(
    params=PingParams,
    result=PingResult,
    title="Ping",
    description="Does nothing for `sleep_ms` milliseconds on the queue named, and answers with `echo`.",
    example={"echo": "hello", "sleep_ms": 100},
    queue=lambda params: params.queue,
    max_attempts=3,
    timeout_seconds=120,
    short=True,
    uses_files=False,
    privileged=True,
)
