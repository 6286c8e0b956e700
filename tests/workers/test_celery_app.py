"""How Celery holds on to its broker."""

from __future__ import annotations

import pytest

from shared.settings import Settings
from workers.celery_app import LONGEST_PAUSE_SECONDS, make_celery_app


class Enough(Exception):
    """The test has seen what it wanted."""


def test_a_broker_that_is_away_is_asked_for_again_and_again_with_short_pauses() -> None:
    app = make_celery_app(Settings(broker_url="redis://127.0.0.1:1/0"))
    pauses: list[float] = []

    def note(_error: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 6:
            raise Enough

    with app.connection_for_read() as connection, pytest.raises(Enough):
        connection.ensure_connection(note)
    app.close()

    assert pauses[0] <= 0.5
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
