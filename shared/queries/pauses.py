"""Statements that pause and resume queues and kinds. Plain SQL for psycopg.

A paused task stays `queued`. It is not published, and what is not published cannot be claimed: so a pause is in force for
every worker when its transaction commits, and workers need not know of it. The transaction executes, in this order:

1. `COUNT_AS_PUBLICATION`, so that a relay which is about to publish, and does not see the pause yet, publishes nothing
   (`shared/queries/publishing.py`)
2. `PAUSE`
3. `UNMARK_PAUSED`, for tasks that are published and not claimed yet
"""

from __future__ import annotations

from typing import Final

COUNT_AS_PUBLICATION: Final = """
INSERT INTO queue_turns AS queue_turn (queue, publications, last_turn)
SELECT queue, 1, 0 FROM unnest(%(queues)s::text[]) AS queue ORDER BY queue
ON CONFLICT (queue) DO UPDATE SET publications = queue_turn.publications + 1"""
"""Raise the counter of publications of queues, and lock it until the transaction ends."""

PAUSE: Final = """
INSERT INTO pauses (target, name, caller_id) VALUES (%(target)s, %(name)s, %(caller_id)s) ON CONFLICT DO NOTHING"""
"""Pause a queue or a kind (`target`). One that is paused already stays as it is."""

UNMARK_PAUSED: Final = """
WITH published AS (
    SELECT task.id FROM tasks task
    WHERE task.queue = ANY(%(queues)s::text[]) AND task.status = 'queued' AND task.rung_at IS NOT NULL
        AND task.kind <> 'platform.canary' AND (%(kind)s::text IS NULL OR task.kind = %(kind)s)
    ORDER BY task.id FOR UPDATE
)
UPDATE tasks task SET rung_at = NULL FROM published WHERE task.id = ANY (ARRAY[published.id])"""
"""Undo the mark of the published tasks of queues: of one kind, or of all if it is NULL."""

RESUME: Final = "DELETE FROM pauses WHERE target = %(target)s AND name = %(name)s"
"""Resume a queue or a kind. Notify the relay in the same transaction (`publishing.NOTIFY`)."""

LIST_PAUSES: Final = "SELECT target, name, since FROM pauses ORDER BY target, name"
"""List what is paused, and since when."""
