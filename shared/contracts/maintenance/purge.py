"""`maintenance.purge`: erases done tasks and uploads that have been kept for as long as was asked."""

from __future__ import annotations

from shared.contracts.kind import Kind, Params, Result


class PurgeParams(Params):
    """It has no params."""


class PurgeResult(Result):
    """How many tasks and files were erased."""

    tasks: int
    files: int


KIND = Kind(
    params=PurgeParams,
    result=PurgeResult,
    title="Purge",
    description="Erases done tasks and uploads that have been kept for as long as was asked, and leaves tombstones.",
    queue="maintenance",
    max_attempts=2,
    timeout_seconds=1800,
    uses_files=False,
    public=False,
)
