"""The statement that counts the backlog of each queue."""

from __future__ import annotations

from typing import Final

COUNT_QUEUED_BY_QUEUE: Final = """
SELECT queue, sum(tasks)::bigint AS tasks FROM (
    SELECT queue, count(*) AS tasks FROM tasks
    WHERE status = 'queued' AND rung_at IS NULL AND blocked_at IS NULL GROUP BY queue
    UNION ALL
    SELECT queue, count(*) FROM tasks WHERE status = 'queued' AND blocked_at IS NOT NULL GROUP BY queue
    UNION ALL
    SELECT queue, count(*) FROM tasks WHERE status = 'queued' AND rung_at IS NOT NULL GROUP BY queue) AS queued
GROUP BY queue"""
"""Count the tasks that are queued and not running, by queue; a queue without any has no row.

Each part reads one partial index. With all conditions in one, Postgres would read the whole table.
"""
