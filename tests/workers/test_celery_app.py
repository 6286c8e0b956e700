"""How Celery connects to its broker again."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from shared.contracts.kind import QUEUES
from shared.settings import Settings
from workers.celery_app import LONGEST_PAUSE_SECONDS, make_celery_app


class Enough(Exception):
    """Raised to end the attempts to connect."""


def test_a_broker_that_is_away_is_tried_with_short_pauses_and_logged_once() -> None:
    app = make_celery_app(Settings(broker_url="redis://127.0.0.1:1/0"))
    pauses: list[float] = []

    def note(_error: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 6:
            raise Enough

    with capture_logs() as logged, app.connection_for_read() as connection, pytest.raises(Enough):
        connection.ensure_connection(note)
    app.close()

    assert pauses[0] <= 0.5
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    assert [entry["event"] for entry in logged] == ["broker_away"]


@pytest.mark.parametrize("is_on", [False, True])
def test_remote_control_is_off_unless_the_setting_switches_it_on(is_on: bool) -> None:
    app = make_celery_app(Settings(broker_url="redis://127.0.0.1:1/0", worker_remote_control=is_on))

    assert app.conf.worker_enable_remote_control == is_on
    assert make_celery_app(Settings()).conf.worker_enable_remote_control is False


def test_no_task_of_celery_itself_is_registered() -> None:
    assert [name for name in make_celery_app(Settings()).tasks if name.startswith("celery.")] == []


def test_a_worker_has_only_the_queues_of_taskmill() -> None:
    app = make_celery_app(Settings(broker_url="redis://127.0.0.1:1/0"))

    assert {app.conf.task_default_queue, *(queue.name for queue in app.conf.task_queues)} == set(QUEUES)
