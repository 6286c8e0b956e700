"""`maintenance.delete_orphans`: deletes what crashes left in the object store."""

from __future__ import annotations

from shared.contracts.kind import Kind, Params, Result


class DeleteOrphansParams(Params):
    """None."""


class DeleteOrphansResult(Result):
    """How many of each were erased."""

    objects: int


KIND = Kind(
    params=DeleteOrphansParams,
    result=DeleteOrphansResult,
    title="Delete orphans",
    description="Deletes objects older than a day that no file refers to.",
    queue="maintenance",
    max_attempts=2,
    timeout_seconds=1800,
    uses_files=False,
    public=False,
)
