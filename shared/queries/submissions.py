"""Statements of a submission that needs more than the hot path: idempotency keys, unique tasks, batches.

Plain SQL for psycopg, run inside a transaction that the caller commits.
"""

from __future__ import annotations

from typing import Final

IDEMPOTENCY_KEY_HOURS: Final = 24

STORE_KEY: Final = f"""
INSERT INTO idempotency_keys AS stored (owner_id, key, fingerprint, subject_id, status_code)
VALUES (%(owner_id)s, %(key)s, %(fingerprint)s, %(subject_id)s, %(status_code)s)
ON CONFLICT (owner_id, key) DO UPDATE SET fingerprint = excluded.fingerprint, subject_id = excluded.subject_id,
    status_code = excluded.status_code, in_flight_until = NULL, created_at = now()
WHERE stored.created_at < now() - interval '{IDEMPOTENCY_KEY_HOURS} hours' OR stored.in_flight_until < now()
RETURNING key"""
"""Store a key together with what this transaction stores. Returns no row if the key is taken."""

FIND_KEY: Final = f"""
SELECT fingerprint, subject_id, status_code, coalesce(in_flight_until > now(), false) AS in_flight,
    created_at < now() - interval '{IDEMPOTENCY_KEY_HOURS} hours' OR coalesce(in_flight_until <= now(), false) AS stale
FROM idempotency_keys WHERE owner_id = %(owner_id)s AND key = %(key)s"""
"""Find a key: the fingerprint, subject and status code of its request, whether it is reserved, and whether it is stale."""

DROP_STALE_KEY: Final = f"""
DELETE FROM idempotency_keys WHERE owner_id = %(owner_id)s AND key = %(key)s
    AND (created_at < now() - interval '{IDEMPOTENCY_KEY_HOURS} hours' OR in_flight_until <= now())"""
"""Delete a key that is older than `IDEMPOTENCY_KEY_HOURS` or whose reservation has ended."""

RESERVE_KEY: Final = f"""
INSERT INTO idempotency_keys AS stored (owner_id, key, in_flight_until)
VALUES (%(owner_id)s, %(key)s, now() + %(seconds)s * interval '1 second')
ON CONFLICT (owner_id, key) DO UPDATE SET fingerprint = NULL, subject_id = NULL, status_code = NULL,
    in_flight_until = excluded.in_flight_until, created_at = now()
WHERE stored.created_at < now() - interval '{IDEMPOTENCY_KEY_HOURS} hours' OR stored.in_flight_until < now()
RETURNING key"""
"""Reserve a key for an upload that takes long. Returns no row if the key is taken."""

RENEW_RESERVATION: Final = """
UPDATE idempotency_keys SET in_flight_until = now() + %(seconds)s * interval '1 second'
WHERE owner_id = %(owner_id)s AND key = %(key)s AND in_flight_until IS NOT NULL"""
"""Extend the reservation of a key."""

COMPLETE_RESERVED_KEY: Final = """
UPDATE idempotency_keys SET fingerprint = %(fingerprint)s, subject_id = %(subject_id)s, status_code = %(status_code)s,
    in_flight_until = NULL, created_at = now()
WHERE owner_id = %(owner_id)s AND key = %(key)s AND in_flight_until IS NOT NULL
RETURNING key"""
"""Store a reserved key together with what this transaction stores. Returns no row if the reservation was lost."""

DELETE_RESERVATION: Final = """
DELETE FROM idempotency_keys WHERE owner_id = %(owner_id)s AND key = %(key)s AND in_flight_until IS NOT NULL"""
"""Delete a reserved key, because its request failed."""

CLAIM_UNIQUENESS: Final = """
INSERT INTO unique_tasks AS earlier (owner_id, kind, params_sha256, task_id)
VALUES (%(owner_id)s, %(kind)s, %(params_sha256)s, %(task_id)s)
ON CONFLICT (owner_id, kind, params_sha256) DO UPDATE SET task_id = excluded.task_id, created_at = now()
WHERE earlier.created_at <= now() - %(unique_for)s * interval '1 second'
    OR (SELECT task.finished_at IS NOT NULL FROM tasks task WHERE task.id = earlier.task_id)
RETURNING task_id"""
"""Store a task as the unique one of its owner, kind and params. Returns no row while another is live and young enough.

A task that another transaction has stored but not committed cannot be seen, so it counts as live. Only a task that is known
to be done, or that is too old, is replaced.
"""

FIND_UNIQUE: Final = """
SELECT task_id FROM unique_tasks
WHERE owner_id = %(owner_id)s AND kind = %(kind)s AND params_sha256 = %(params_sha256)s"""
"""Find the unique task of an owner, kind and params."""
