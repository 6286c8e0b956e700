"""`maintenance.delete_orphans`: deletes objects that no file refers to, which crashes leave behind."""

from __future__ import annotations

from shared.contracts.kind import Kind, Params, Result


class DeleteOrphansParams(Params):
    """It has no params."""


class DeleteOrphansResult(Result):
    """How many objects were deleted."""

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
