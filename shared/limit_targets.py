"""Checks that limits name queues and kinds that exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shared.contracts.catalog import find_kind
from shared.contracts.kind import QUEUES
from shared.limits import Limits


class UnknownTarget(NamedTuple):
    """A queue or a kind that does not exist, and the limit that names it."""

    limit: str
    target: str
    message: str


def list_unknown_targets(limits: Limits) -> Iterator[UnknownTarget]:
    """Yield each queue and kind of the limits that does not exist."""
    for queue in limits.running_by_queue:
        if queue not in QUEUES:
            message = f"There is no queue {queue}. The queues are {', '.join(QUEUES)}."
            yield UnknownTarget("running_by_queue", queue, message)
    for kind in limits.running_by_kind:
        if find_kind(kind) is None:
            yield UnknownTarget("running_by_kind", kind, f"There is no kind {kind}. `GET /kinds` lists the kinds.")
