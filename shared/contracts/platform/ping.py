"""`platform.ping`: waits for a given time and returns a text. Tests, fault injection and benchmarks use it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.kind import Kind, Params, Result


class PingParams(Params):
    """The text to return, how long to wait, and the queue."""

    echo: Annotated[str | None, Field(max_length=1000, description="A text that the result contains.")] = None
    sleep_ms: Annotated[int, Field(ge=0, le=60_000, description="How long the attempt waits, in milliseconds.")] = 0
    queue: Annotated[Literal["email", "files", "reports"], Field(description="The queue of the task.")] = "files"


class PingResult(Result):
    """The text that the params have in `echo`."""

    echo: str | None


KIND = Kind(
    params=PingParams,
    result=PingResult,
    title="Ping",
    description="Waits for `sleep_ms` milliseconds in a worker of the queue, and returns `echo`.",
    example={"echo": "hello", "sleep_ms": 100},
    queue=lambda params: params.queue,
    max_attempts=3,
    timeout_seconds=120,
    short=True,
    uses_files=False,
    privileged=True,
)
