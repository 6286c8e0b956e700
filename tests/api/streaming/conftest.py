"""What the tests of streams share: a reader of server-sent events that fails instead of waiting for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx2
import pytest

from api.streaming import streams
from tests.conftest import PATIENCE_SECONDS


class SentEvent(NamedTuple):
    """One server-sent event. A position has an id only."""

    id: str
    type: str
    data: dict[str, Any]


def read_messages(lines: Iterator[str]) -> Iterator[SentEvent]:
    """Yield the events of a stream and its positions (HTML Living Standard, section 9.2.6)."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "id" in fields:
            yield SentEvent(fields["id"], fields.get("event", ""), json.loads(fields.get("data", "{}")))
            fields = {}
        else:
            fields = {}


@contextmanager
def follow(
    client: httpx2.Client,
    path: str,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Iterator[SentEvent]]:
    """Open a stream and yield its messages; the first of `/events` is a position."""
    with client.stream("GET", path, timeout=PATIENCE_SECONDS, params=params, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield read_messages(answer.iter_lines())


def read_until(messages: Iterator[SentEvent], count: int) -> list[SentEvent]:
    """Return the next so many events, without positions."""
    found: list[SentEvent] = []
    while len(found) < count:
        message = next(messages)
        if message.type:
            found.append(message)
    return found


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams without events send positions often."""
    monkeypatch.setattr(streams, "KEEP_ALIVE_COMMENT_SECONDS", 0.2)
