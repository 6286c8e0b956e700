"""The statements that find what must never be: each gives a row for every finding, and none on a sound database.

All are read in one snapshot, so that what goes on meanwhile is no finding. Each takes `floor`, the least id to look at (ids
sort by age), and gives (subject id, what was found). Postgres does the work, in order of the keys and with its own spill to
disk, so that whoever reads the rows needs memory for those that are wrong only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shared.tasks.states import DONE_VALUES, FIRST_STATES, MOVES, RETRIABLE


class Check(NamedTuple):
    """One thing that must hold: its name in reports, the promise in a sentence, and the statement that finds breaches."""

    name: str
    promise: str
    statement: str


def _quoted(values: object) -> str:
    return ", ".join(f"'{value}'" for value in sorted(str(value) for value in values))  # type: ignore[attr-defined]


_DONE: Final = _quoted(DONE_VALUES)
_MOVES: Final = _quoted(f"{before}>{after}" for before, after in MOVES)
_OWED: Final = """
    SELECT i.task_id, i.id FROM email_intents i CROSS JOIN LATERAL unnest(i.recipients) AS x (recipient)
    WHERE i.task_id >= %(floor)s AND i.given_up_at IS NULL
        AND NOT EXISTS (SELECT FROM email_receipts r WHERE r.intent_id = i.id AND r.recipient = x.recipient)
    GROUP BY i.task_id, i.id"""

BEGIN_SNAPSHOT: Final = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    # The store is walked while the snapshot is held.
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL jit = off",
)
"""What to execute first in the transaction that all statements of this module are read in."""

COUNT: Final = """
SELECT status, count(*) FROM tasks WHERE id >= %(floor)s GROUP BY status ORDER BY status"""
"""Count tasks by status."""

CHECKS: Final = (
    Check(
        "history",
        "A task's history is gapless from 1 to the task's version.",
        """
SELECT t.id, CASE WHEN e.n IS NULL THEN 'no history at all; the version is ' || t.version
    ELSE format('%%s events, from %%s to %%s; the version is %%s', e.n, e.first, e.last, t.version) END
FROM tasks t LEFT JOIN (
    SELECT task_id, count(*) AS n, min(seq) AS first, max(seq) AS last FROM task_events
    WHERE task_id >= %(floor)s GROUP BY task_id) AS e ON e.task_id = t.id
WHERE t.id >= %(floor)s AND (e.n IS NULL OR e.first <> 1 OR e.last <> t.version OR e.n <> t.version)""",
    ),
    Check(
        "moves",
        "Every move in the history is one of the table of moves; a terminal state is left only by a person's retry.",
        f"""
SELECT task_id, CASE
    WHEN before IS NULL THEN format('began as %%s', after)
    WHEN before IN ({_DONE}) AND NOT retried THEN format('%%s changed to %%s at %%s and nobody asked for it', before, after, seq)
    WHEN retried AND before NOT IN ({_quoted(RETRIABLE)}) THEN format('retried while %%s at %%s', before, seq)
    ELSE format('%%s to %%s at %%s is no move', before, after, seq) END
FROM (
    SELECT task_id, seq, data->>'status' AS after,
        lag(data->>'status') OVER (PARTITION BY task_id ORDER BY seq) AS before,
        coalesce((data->>'retried')::boolean, false) AS retried,
        coalesce((data->>'cancel_requested')::boolean, false) AS cancel_requested
    FROM task_events WHERE task_id >= %(floor)s AND type = 'status') AS m
WHERE CASE
    WHEN before IS NULL THEN after IS NULL OR after NOT IN ({_quoted(FIRST_STATES)})
    WHEN before = 'running' AND after = 'running' THEN NOT cancel_requested
    ELSE after IS NULL OR before || '>' || after NOT IN ({_MOVES}) OR retried <> (before IN ({_DONE})) END""",
    ),
    Check(
        "status",
        "A task's status is the one of its last status event.",
        """
SELECT t.id, format('it is %%s, and its history says %%s', t.status, coalesce(e.status, 'nothing'))
FROM tasks t LEFT JOIN (
    SELECT DISTINCT ON (task_id) task_id, data->>'status' AS status FROM task_events
    WHERE task_id >= %(floor)s AND type = 'status' ORDER BY task_id, seq DESC) AS e ON e.task_id = t.id
WHERE t.id >= %(floor)s AND t.status IS DISTINCT FROM e.status""",
    ),
    Check(
        "attempts",
        "Attempts are as many as were claimed and not handed back, and no more than allowed.",
        """
SELECT t.id, format('attempt %%s of %%s; the history has %%s claims and %%s hand-backs', t.attempt, t.max_attempts,
    coalesce(e.claims, 0), coalesce(e.hand_backs, 0))
FROM tasks t LEFT JOIN (
    SELECT task_id, count(*) FILTER (WHERE before = 'queued' AND after = 'running') AS claims,
        count(*) FILTER (WHERE before = 'running' AND after = 'queued') AS hand_backs
    FROM (
        SELECT task_id, data->>'status' AS after,
            lag(data->>'status') OVER (PARTITION BY task_id ORDER BY seq) AS before
        FROM task_events WHERE task_id >= %(floor)s AND type = 'status') AS m
    GROUP BY task_id) AS e ON e.task_id = t.id
WHERE t.id >= %(floor)s AND (t.attempt > t.max_attempts OR t.attempt < 0
    OR t.attempt <> coalesce(e.claims, 0) - coalesce(e.hand_backs, 0))""",
    ),
    Check(
        "leases",
        "What runs has a claim and a lease, and is taken back within three leases; nothing else has either.",
        """
SELECT id, CASE
    WHEN status <> 'running' THEN format('%%s, with a claim or a lease', status)
    WHEN claim IS NULL OR lease_until IS NULL THEN 'running, without a claim or a lease'
    ELSE format('its lease was over %%s s ago', round(extract(epoch FROM now() - lease_until)::numeric, 1)) END
FROM tasks WHERE id >= %(floor)s AND CASE
    WHEN status <> 'running' THEN claim IS NOT NULL OR lease_until IS NOT NULL
    ELSE claim IS NULL OR lease_until IS NULL OR lease_until < now() - 2 * %(lease)s * interval '1 second' END""",
    ),
    Check(
        "payload",
        "A task has its params; `succeeded` has a result and no error, the other ends have an error and no result.",
        f"""
SELECT t.id, CASE
    WHEN p.task_id IS NULL THEN 'it has no payload'
    WHEN t.status = 'succeeded' THEN 'succeeded, without a result or with an error'
    ELSE format('%%s, without an error or with a result', t.status) END
FROM tasks t LEFT JOIN task_payloads p ON p.task_id = t.id
WHERE t.id >= %(floor)s AND CASE
    WHEN p.task_id IS NULL THEN true
    WHEN t.status = 'succeeded' THEN p.result IS NULL OR p.error IS NOT NULL
    WHEN t.status IN ({_DONE}) THEN p.error IS NULL OR p.result IS NOT NULL
    ELSE p.result IS NOT NULL END""",
    ),
    Check(
        "times",
        "What is done has the times of its end and of its purge, and nothing else has them.",
        f"""
SELECT id, format('%%s, finished at %%s, to be purged at %%s', status, coalesce(finished_at::text, 'no time'),
    coalesce(purge_at::text, 'no time'))
FROM tasks WHERE id >= %(floor)s AND ((status IN ({_DONE})) <> (finished_at IS NOT NULL)
    OR (status IN ({_DONE})) <> (purge_at IS NOT NULL) OR (status = 'retrying') <> (next_attempt_at IS NOT NULL))""",
    ),
    Check(
        "deleted-rows",
        "What was accepted is there, or has a tombstone.",
        """
SELECT s.task_id, 'its row is gone, and ' || string_agg(s.what, ', ' ORDER BY s.what) || ' of it is left' FROM (
    SELECT DISTINCT task_id, 'history' AS what FROM task_events WHERE task_id >= %(floor)s
    UNION ALL SELECT task_id, 'payload' FROM task_payloads WHERE task_id >= %(floor)s
    UNION ALL SELECT DISTINCT task_id, 'a link to a file' FROM task_files WHERE task_id >= %(floor)s
    UNION ALL SELECT task_id, 'its uniqueness' FROM unique_tasks WHERE task_id >= %(floor)s
    UNION ALL SELECT DISTINCT task_id, 'an intent' FROM email_intents WHERE task_id >= %(floor)s
    UNION ALL SELECT DISTINCT task_id, 'a receipt' FROM email_receipts WHERE task_id >= %(floor)s
    UNION ALL SELECT task_id, 'an artifact' FROM files WHERE task_id >= %(floor)s
) AS s WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = s.task_id) GROUP BY s.task_id""",
    ),
    Check(
        "slots",
        "A slot of a schedule has one task, which is there or has a tombstone.",
        """
SELECT s.task_id, format('the task of the slot %%s is gone without a tombstone', s.slot) FROM schedule_slots s
WHERE s.task_id >= %(floor)s AND NOT EXISTS (SELECT FROM tasks t WHERE t.id = s.task_id)
    AND NOT EXISTS (SELECT FROM tombstones d WHERE d.id = s.task_id)
UNION ALL
SELECT t.id, 'a task of a schedule, without a slot' FROM tasks t
WHERE t.id >= %(floor)s AND t.schedule_id IS NOT NULL AND t.created_at > now() - interval '6 days'
    AND NOT EXISTS (SELECT FROM schedule_slots s WHERE s.task_id = t.id)
    AND EXISTS (SELECT FROM schedules s WHERE s.id = t.schedule_id)""",
    ),
    Check(
        "schedules",
        "While beat runs, an enabled schedule is looked at within two minutes of its next time.",
        """
SELECT schedule.id, format('its next time was %%s, and beat has not looked at it', schedule.next_at) FROM schedules AS schedule
WHERE schedule.enabled AND schedule.next_at < now() - interval '2 minutes' AND schedule.planned_at < now() - interval '2 minutes'
    AND EXISTS (SELECT FROM signs_of_life AS sign WHERE sign.part = 'beat' AND sign.at > now() - interval '10 seconds')""",
    ),
    Check(
        "idempotency-keys",
        "What an idempotency key stands for is there, or was purged.",
        """
SELECT k.subject_id, format('the key of %%s stands for what is gone without a tombstone', k.owner_id)
FROM idempotency_keys k
WHERE k.subject_id >= %(floor)s
    AND NOT EXISTS (SELECT FROM tasks t WHERE t.id = k.subject_id)
    AND NOT EXISTS (SELECT FROM tasks t WHERE t.batch_id = k.subject_id)
    -- A batch leaves no tombstone but those of its tasks, so that anything of the owner's purged since may have been it.
    AND NOT EXISTS (SELECT FROM tombstones d WHERE d.owner_id = k.owner_id AND d.subject = 'task'
        AND d.purged_at >= k.created_at)""",
    ),
    Check(
        "tombstones",
        "What has a tombstone is gone.",
        """
SELECT t.id, 'it is there, and has a tombstone' FROM tombstones d JOIN tasks t ON t.id = d.id WHERE d.id >= %(floor)s
UNION ALL
SELECT coalesce(f.task_id, f.id), format('the file %%s is there, and has a tombstone', f.id)
FROM tombstones d JOIN files f ON f.id = d.id WHERE d.id >= %(floor)s""",
    ),
    Check(
        "receipts",
        "A receipt answers an intent of its task, for one of the intent's recipients.",
        """
SELECT r.task_id, CASE
    WHEN i.id IS NULL THEN 'a receipt without its intent'
    WHEN i.task_id <> r.task_id THEN format('a receipt for the intent of the task %%s', i.task_id)
    ELSE 'a receipt for someone to whom the intent did not go' END
FROM email_receipts r LEFT JOIN email_intents i ON i.id = r.intent_id
WHERE r.task_id >= %(floor)s AND (i.id IS NULL OR i.task_id <> r.task_id OR r.recipient <> ALL (i.recipients))""",
    ),
    Check(
        "sent-once",
        "A recipient's server accepts a message once for each time that a person asked for it.",
        """
SELECT a.task_id, format('accepted %%s times for one recipient, and asked for %%s times', a.n, 1 + coalesce(e.retries, 0))
FROM (
    SELECT task_id, recipient, count(*) AS n FROM email_receipts
    WHERE task_id >= %(floor)s AND status = 'accepted' GROUP BY task_id, recipient HAVING count(*) > 1) AS a
LEFT JOIN LATERAL (
    SELECT count(*) AS retries FROM task_events e
    WHERE e.task_id = a.task_id AND e.type = 'status' AND (e.data->>'retried')::boolean) AS e ON true
WHERE a.n > 1 + coalesce(e.retries, 0)""",
    ),
    Check(
        "delivery-unknown",
        "When nobody can know whether a message was sent, the task's end says so.",
        f"""
SELECT t.id, format('%%s (%%s), with an intent that has no receipt for someone', t.status,
    coalesce(p.error->>'type', 'no error'))
FROM tasks t JOIN ({_OWED}) AS o ON o.task_id = t.id LEFT JOIN task_payloads p ON p.task_id = t.id
WHERE t.status IN ({_DONE}) AND p.error->>'type' IS DISTINCT FROM '/problems/delivery-unknown'
GROUP BY t.id, t.status, p.error->>'type'""",
    ),
    Check(
        "artifacts",
        "An artifact belongs to a succeeded task, which refers to it.",
        """
SELECT f.task_id, CASE
    WHEN t.status <> 'succeeded' THEN format('%%s, with the artifact %%s', t.status, f.id)
    ELSE format('it does not refer to its artifact %%s', f.id) END
FROM files f JOIN tasks t ON t.id = f.task_id
LEFT JOIN task_files x ON x.task_id = f.task_id AND x.file_id = f.id AND x.role = 'artifact'
WHERE f.task_id >= %(floor)s AND (t.status <> 'succeeded' OR x.file_id IS NULL)""",
    ),
    Check(
        "file-links",
        "What a task reads or made is a file that is there, and what it made is its own.",
        """
SELECT x.task_id, CASE WHEN f.id IS NULL THEN format('its %%s %%s is gone', x.role, x.file_id)
    ELSE format('it refers to the artifact %%s of another', x.file_id) END
FROM task_files x LEFT JOIN files f ON f.id = x.file_id
WHERE x.task_id >= %(floor)s AND (f.id IS NULL OR (x.role = 'artifact' AND f.task_id IS DISTINCT FROM x.task_id))""",
    ),
)

LIST_FILES: Final = """
SELECT id, task_id, storage_key, size, sha256 FROM files WHERE id >= %(floor)s ORDER BY id"""
"""List the files whose objects must be there."""

LIST_STILL_THERE: Final = "SELECT id FROM files WHERE id = ANY(%(ids)s::uuid[])"
"""Of files, list those that are there: a file whose object was missing may have been deleted since the snapshot."""

LIST_KNOWN_KEYS: Final = "SELECT storage_key FROM files WHERE storage_key = ANY(%(keys)s::text[])"
"""Of storage keys, list those that a file bears."""
