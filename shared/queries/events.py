"""Statements on the history of tasks."""

from __future__ import annotations

from typing import Final

LIST_EVENTS_AFTER: Final = """
SELECT wanted.position, event.seq, event.type, event.at, event.data::text
FROM unnest(%(ids)s::uuid[], %(after)s::int[]) WITH ORDINALITY AS wanted (task_id, seq, position)
CROSS JOIN LATERAL (
    SELECT seq, type, at, data FROM task_events
    WHERE task_id = ANY (ARRAY[wanted.task_id]) AND seq > wanted.seq ORDER BY seq LIMIT %(limit)s) AS event
ORDER BY wanted.position, event.seq"""
"""List, for each of several tasks, the events that follow a sequence number, oldest first, up to a limit for each.

Returns (position of the task in the list, from 1; seq; type; at; data as JSON text).
"""
