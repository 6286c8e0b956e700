"""`platform.ping` waits, echoes, and ends at once when it must."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.contracts.platform.ping import KIND, PingParams
from workers.adapters.memory_context import MemoryContext
from workers.handlers.platform.ping import handle


def test_the_result_of_a_ping_is_its_echo(tmp_path: Path) -> None:
    assert handle(PingParams(echo="hello"), MemoryContext(tmp_path)).echo == "hello"
    assert handle(PingParams(), MemoryContext(tmp_path)).echo is None


def test_a_ping_sleeps_as_long_as_its_params_require(tmp_path: Path) -> None:
    started = time.monotonic()

    handle(PingParams(sleep_ms=300), MemoryContext(tmp_path))

    assert 0.3 <= time.monotonic() - started < 20


@pytest.mark.parametrize("queue", ["email", "files", "reports"])
def test_a_ping_goes_through_the_queue_that_its_params_name(queue: str) -> None:
    assert KIND.queue_for(PingParams.model_validate({"queue": queue})) == queue


@pytest.mark.parametrize("params", [{"sleep_ms": 60_001}, {"sleep_ms": -1}, {"queue": "maintenance"}, {"other": 1}])
def test_invalid_params_of_a_ping_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PingParams.model_validate(params)


def test_only_operators_may_submit_a_ping() -> None:
    assert KIND.privileged
    assert KIND.max_attempts == 3
