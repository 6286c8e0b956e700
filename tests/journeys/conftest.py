"""Ends the parts of each journey at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Parts


@pytest.fixture(autouse=True)
def end_parts_at_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kill the parts after the test. An orderly stop takes a second or two, and is tested elsewhere."""
    parts: Parts | None = request.getfixturevalue("parts") if "parts" in request.fixturenames else None
    yield
    for process in parts.processes if parts is not None else ():
        if process.poll() is None:
            process.kill()
