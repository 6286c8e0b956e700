"""What is checked before a task is stored."""

from __future__ import annotations

from uuid import UUID

import pytest

from shared.contracts.catalog import list_kinds
from shared.contracts.kind import QUEUES
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task

OWNER = UUID(int=1)


@pytest.mark.parametrize("queue", QUEUES)
def test_a_task_for_a_known_queue_is_created(queue: str) -> None:
    task = make_task("platform.ping", list_kinds()["platform.ping"], b"{}", queue, TaskOptions(), OWNER, OWNER)

    assert task.queue == queue


def test_a_task_for_an_unknown_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown queue nowhere"):
        make_task("platform.ping", list_kinds()["platform.ping"], b"{}", "nowhere", TaskOptions(), OWNER, OWNER)
