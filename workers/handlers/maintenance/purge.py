"""Deletes done tasks and uploads whose time of keeping is over, with their objects, and leaves tombstones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shared.contracts.maintenance.purge import PurgeParams, PurgeResult
from shared.queries import files as file_queries
from shared.queries import purging
from shared.queries import workflows as workflow_queries
from workers.handler_context import HandlerContext

PURGED_TOGETHER: Final = 200
"""How many rows one transaction deletes, so that none takes long."""


def handle(params: PurgeParams, context: HandlerContext) -> PurgeResult:
    """Purge in rounds until nothing is due. Objects are deleted after the commit that deletes their rows."""
    tasks = _repeat(context, _purge_tasks)
    files = _repeat(context, _purge_uploads)
    log = context.log.info if tasks or files else context.log.debug
    log("purged", tasks=tasks, files=files)
    return PurgeResult(tasks=tasks, files=files)


def _repeat(context: HandlerContext, purge: Callable[[HandlerContext], int]) -> int:
    total = 0
    while erased := purge(context):
        total += erased
        context.check()
    return total


def _purge_tasks(context: HandlerContext) -> int:
    """Purge a round of done tasks. A task whose artifact a live task reads is kept until that is done."""
    with context.engine.begin() as connection:
        ids = [row.id for row in connection.execute(purging.list_purgeable(PURGED_TOGETHER))]
        if not ids:
            return 0
        artifacts = connection.execute(purging.lock_artifacts(ids)).all()
        in_use = set(connection.execute(purging.list_tasks_with_artifacts_in_use(ids)).scalars())
        erasable = [task_id for task_id in ids if task_id not in in_use]
        workflow_ids = list(connection.execute(workflow_queries.list_workflow_ids(erasable)).scalars())
        for statement in (*purging.erase_tasks(erasable), *workflow_queries.erase_workflows(workflow_ids)):
            connection.execute(statement)
    context.store.delete([row.storage_key for row in artifacts if row.task_id not in in_use])
    return len(erasable)


def _purge_uploads(context: HandlerContext) -> int:
    """Purge a round of expired uploads that no live task reads."""
    with context.engine.begin() as connection:
        rows = connection.execute(file_queries.lock_expired_files(PURGED_TOGETHER)).all()
        if not rows:
            return 0
        unread = set(connection.execute(file_queries.list_unread([row.id for row in rows])).scalars())
        expired = [row for row in rows if row.id in unread]
        connection.execute(file_queries.delete_files([row.id for row in expired]))
    context.store.delete([row.storage_key for row in expired])
    return len(expired)
