"""Deletes objects that no file refers to: what a crash between storing and committing left behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from shared.contracts.maintenance.delete_orphans import DeleteOrphansParams, DeleteOrphansResult
from shared.queries.files import list_known_keys
from workers.handler_context import HandlerContext

ORPHANS_TOGETHER: Final = 1000
MINIMUM_AGE: Final = timedelta(days=1)
"""An object is stored before its row: a younger one may still be waiting for it. The store's clock and this one may
differ by far less."""


def handle(params: DeleteOrphansParams, context: HandlerContext) -> DeleteOrphansResult:
    """Walk the store, and delete what is older than a day and unknown to the database."""
    older_than = datetime.now(UTC) - MINIMUM_AGE
    context.store.abort_abandoned(older_than)
    listing = iter(context.store.list_objects(older_than))
    deleted = 0
    while keys := [stored.key for stored in islice(listing, ORPHANS_TOGETHER)]:
        context.check()
        with context.engine.connect() as connection:
            known = set(connection.execute(list_known_keys(keys)).scalars())
        orphans = [key for key in keys if key not in known]
        context.store.delete(orphans)
        deleted += len(orphans)
    log = context.log.info if deleted else context.log.debug
    log("orphans_deleted", objects=deleted)
    return DeleteOrphansResult(objects=deleted)
