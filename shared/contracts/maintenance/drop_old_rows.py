"""`maintenance.drop_old_rows`: deletes rows, such as idempotency keys and tombstones, that are too old to matter."""

from __future__ import annotations

from shared.contracts.kind import Kind, Params, Result


class DropOldRowsParams(Params):
    """It has no params."""


class DropOldRowsResult(Result):
    """How many rows of each kind were deleted."""

    idempotency_keys: int
    tombstones: int
    slots: int
    turns: int = 0
    webhook_deliveries: int = 0
    slow_receivers: int = 0
    batch_follow_ups: int = 0
    activity: int = 0
    usage: int = 0
    starts: int = 0


KIND = Kind(
    params=DropOldRowsParams,
    result=DropOldRowsResult,
    title="Drop old rows",
    description="Deletes idempotency keys after a day, tombstones after 30 days, old schedule slots, what erased batches "
    "would submit, deliveries of webhooks 30 days after they ended, slow receivers of webhooks, callers' old turns, starts that no "
    "rate counts any more, and old counts of the activity of queues and of usage. Adds up the counts of usage.",
    queue="maintenance",
    max_attempts=2,
    timeout_seconds=1800,
    uses_files=False,
    public=False,
)
