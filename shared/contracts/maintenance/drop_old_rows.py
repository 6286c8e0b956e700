"""`maintenance.drop_old_rows`: drops keys, tombstones and slots that are too old to matter."""

from __future__ import annotations

from shared.contracts.kind import Kind, Params, Result


class DropOldRowsParams(Params):
    """None."""


class DropOldRowsResult(Result):
    """How many of each were erased."""

    idempotency_keys: int
    tombstones: int
    slots: int


KIND = Kind(
    params=DropOldRowsParams,
    result=DropOldRowsResult,
    title="Drop old rows",
    description="Drops idempotency keys after a day, tombstones after 30, and old schedule slots.",
    queue="maintenance",
    max_attempts=2,
    timeout_seconds=1800,
    uses_files=False,
    public=False,
)
