"""`maintenance.purge`: erases what is past its keep."""

from __future__ import annotations

from shared.contracts.kind import Kind, Params, Result


class PurgeParams(Params):
    """None."""


class PurgeResult(Result):
    """How many of each were erased."""

    tasks: int
    files: int


KIND = Kind(
    params=PurgeParams,
    result=PurgeResult,
    title="Purge",
    description="Erases done tasks and uploads whose keep is over, and leaves tombstones.",
    queue="maintenance",
    max_attempts=2,
    timeout_seconds=1800,
    uses_files=False,
    public=False,
)
