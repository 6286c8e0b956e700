"""Deletes rows that are too old to matter, such as idempotency keys and tombstones, and adds up the counts of usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Executable

from shared.contracts.maintenance.drop_old_rows import DropOldRowsParams, DropOldRowsResult
from shared.queries import purging
from shared.queries import schedules as schedule_queries
from shared.queries import usage as usage_queries
from shared.queries import webhooks as webhook_queries
from shared.queries.files import TOMBSTONE_DAYS
from shared.tasks.options import DAY_SECONDS
from workers.handler_context import HandlerContext

ROWS_TOGETHER: Final = 5000
SLOT_DAYS: Final = 7
DELIVERY_DAYS: Final = 30
TURN_DAYS: Final = 7
ACTIVITY_HOURS: Final = 2


def handle(params: DropOldRowsParams, context: HandlerContext) -> DropOldRowsResult:
    """Delete old rows in rounds, each in a transaction of its own."""
    return DropOldRowsResult(
        idempotency_keys=_repeat(context, lambda: purging.drop_old_idempotency_keys(ROWS_TOGETHER)),
        tombstones=_repeat(context, lambda: purging.drop_old_tombstones(ROWS_TOGETHER, TOMBSTONE_DAYS)),
        slots=_repeat(context, lambda: schedule_queries.drop_old_slots(ROWS_TOGETHER, SLOT_DAYS)),
        batch_follow_ups=_repeat(context, lambda: purging.drop_old_batch_follow_ups(ROWS_TOGETHER)),
        webhook_deliveries=_repeat(context, lambda: webhook_queries.drop_old_deliveries(ROWS_TOGETHER, DELIVERY_DAYS)),
        slow_receivers=_repeat(context, lambda: webhook_queries.drop_slow_receivers(ROWS_TOGETHER, DELIVERY_DAYS)),
        turns=_repeat(context, lambda: purging.drop_old_turns(ROWS_TOGETHER, TURN_DAYS)),
        starts=_repeat(context, lambda: purging.drop_old_starts(ROWS_TOGETHER, DAY_SECONDS)),
        activity=_repeat(context, lambda: purging.drop_old_activity(ROWS_TOGETHER, ACTIVITY_HOURS)),
        usage=sum(
            (
                _repeat(context, lambda: usage_queries.drop_old_days(ROWS_TOGETHER)),
                _repeat(context, lambda: usage_queries.drop_old_warnings(ROWS_TOGETHER)),
                _repeat(context, lambda: usage_queries.add_up_days(ROWS_TOGETHER)),
                _repeat(context, lambda: usage_queries.add_up_stored_bytes(ROWS_TOGETHER)),
            )
        ),
    )


def _repeat(context: HandlerContext, statement: Callable[[], Executable]) -> int:
    total = 0
    while True:
        context.check()
        with context.engine.begin() as connection:
            dropped = connection.execute(statement()).rowcount
        total += dropped
        if dropped < ROWS_TOGETHER:
            return total
