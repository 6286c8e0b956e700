"""Journeys end without ceremony."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def end_parts_at_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """An orderly stop of parts takes a second or two for each test, and is tested elsewhere."""
    parts: Any = request.getfixturevalue("parts") if "parts" in request.fixturenames else None
    yield
    for process in parts.processes if parts else ():
        if process.poll() is None:
            process.kill()
