"""The fixture of the tests of webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from shared.identifiers import new_id
from shared.settings import Settings
from tests.webhooks import Webhooks


@pytest.fixture
def webhooks(settings: Settings, tmp_path: Path) -> Iterator[Webhooks]:
    """Webhooks on a database of the test's own."""
    with psycopg.connect(settings.database_url, autocommit=True, row_factory=namedtuple_row) as connection:
        found = Webhooks(settings, connection, tmp_path, new_id())
        yield found
        found.engine.dispose()
