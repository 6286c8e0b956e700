"""Statements that find broken promises. Each returns one row for every finding, and none on a sound database.

All are executed in one snapshot, so that concurrent work causes no finding. Each takes `floor`, the lowest id to check
(ids are sorted by age), and returns (id of the subject, what was found). Postgres compares and sorts, and may
use its disk for that, so the client needs memory for the findings only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from shared.queries.audit import hash_entries, hash_seal
from shared.queries.running_limits import RUNNING_LIMITS, limits_task
from shared.tasks.states import DONE_VALUES, FIRST_STATES, MOVES, RETRIABLE


class Check(NamedTuple):
    """One promise: its name in reports, the promise as a sentence, and the statement that finds where it is broken."""

    name: str
    promise: str
    statement: str


FIND_EARLY_DELETION: Final = """
SELECT deleted_number AS number, deleted_sealed_at AS sealed_at FROM audit_chain
WHERE deleted_sealed_at > now() - %(keep_days)s::int * interval '1 day'"""
"""Return the last deleted seal of the audit log, if it is younger than entries are kept."""


def _quote(values: Iterable[object]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(map(str, values)))


_DONE: Final = _quote(DONE_VALUES)
_MOVES: Final = _quote(f"{before}>{after}" for before, after in MOVES)
_STATUS_CHANGES: Final = """
        SELECT task_id, seq, data->>'status' AS after,
            lag(data->>'status') OVER (PARTITION BY task_id ORDER BY seq) AS before,
            coalesce((data->>'retried')::boolean, false) AS retried,
            coalesce((data->>'cancel_requested')::boolean, false) AS cancel_requested,
            EXISTS (SELECT FROM tasks AS step WHERE step.id = task_events.task_id AND step.workflow_id IS NOT NULL) AS was_step
        FROM task_events WHERE task_id >= %(floor)s AND type = 'status'"""
"""Each status event of a task, with the status before it."""
_INTENTS_WITHOUT_RECEIPT: Final = """
    SELECT intent.task_id, intent.id
    FROM email_intents AS intent CROSS JOIN LATERAL unnest(intent.recipients) AS addressee (recipient)
    WHERE intent.task_id >= %(floor)s AND intent.given_up_at IS NULL AND NOT EXISTS (
        SELECT FROM email_receipts AS receipt
        WHERE receipt.intent_id = intent.id AND receipt.recipient = addressee.recipient)
    GROUP BY intent.task_id, intent.id"""
"""Each email intent that lacks a receipt for one of its recipients."""

BEGIN_SNAPSHOT: Final = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    # The objects of the store are listed while the snapshot is held.
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL jit = off",
)
"""What to execute first in the transaction in which all statements of this module are read."""

COUNT: Final = """
SELECT status, count(*) AS tasks FROM tasks WHERE id >= %(floor)s GROUP BY status ORDER BY status"""
"""Count tasks by status."""

CHECKS: Final = (
    Check(
        "history",
        "The history of a task has every number from 1 to the version of the task.",
        """
SELECT task.id AS subject, CASE WHEN history.events IS NULL THEN 'it has no history; its version is ' || task.version
    ELSE format('%%s events, from %%s to %%s; the version is %%s', history.events, history.first, history.last, task.version)
    END AS detail
FROM tasks AS task LEFT JOIN (
    SELECT task_id, count(*) AS events, min(seq) AS first, max(seq) AS last FROM task_events
    WHERE task_id >= %(floor)s GROUP BY task_id) AS history ON history.task_id = task.id
WHERE task.id >= %(floor)s AND (history.events IS NULL OR history.first <> 1 OR history.last <> task.version
    OR history.events <> task.version)""",
    ),
    Check(
        "moves",
        "Every change of status is an allowed one; a task that is done changes only by a caller's retry.",
        f"""
SELECT task_id AS subject, CASE
    WHEN before IS NULL THEN format('its first status is %%s', after)
    WHEN before IN ({_DONE}) AND NOT retried THEN format('%%s changed to %%s at %%s without a retry', before, after, seq)
    WHEN retried AND before NOT IN ({_quote(RETRIABLE)}) THEN format('retried while %%s at %%s', before, seq)
    ELSE format('%%s to %%s at %%s is not an allowed change', before, after, seq) END AS detail
FROM ({_STATUS_CHANGES}) AS change
WHERE CASE
    WHEN before IS NULL THEN after IS NULL OR after NOT IN ({_quote(FIRST_STATES)})
    WHEN before = 'running' AND after = 'running' THEN NOT cancel_requested
    -- A step of a workflow that has waited for others, and now waits for its time.
    WHEN before = 'scheduled' AND after = 'scheduled' THEN NOT was_step
    ELSE after IS NULL OR before || '>' || after NOT IN ({_MOVES}) OR retried <> (before IN ({_DONE})) END""",
    ),
    Check(
        "status",
        "The status of a task is that of its last status event.",
        """
SELECT task.id AS subject, format('it is %%s; its history ends with %%s', task.status, coalesce(last.status, 'nothing')) AS detail
FROM tasks AS task LEFT JOIN (
    SELECT DISTINCT ON (task_id) task_id, data->>'status' AS status FROM task_events
    WHERE task_id >= %(floor)s AND type = 'status' ORDER BY task_id, seq DESC) AS last ON last.task_id = task.id
WHERE task.id >= %(floor)s AND task.status IS DISTINCT FROM last.status""",
    ),
    Check(
        "attempts",
        "A task has one attempt for each claim that was not requeued, and no more than it is allowed.",
        f"""
SELECT task.id AS subject, format('attempt %%s of %%s; its history has %%s claims, and was requeued %%s times', task.attempt,
    task.max_attempts, coalesce(history.claims, 0), coalesce(history.requeues, 0)) AS detail
FROM tasks AS task LEFT JOIN (
    SELECT task_id, count(*) FILTER (WHERE before = 'queued' AND after = 'running') AS claims,
        count(*) FILTER (WHERE before = 'running' AND after = 'queued') AS requeues
    FROM ({_STATUS_CHANGES}) AS change
    GROUP BY task_id) AS history ON history.task_id = task.id
WHERE task.id >= %(floor)s AND (task.attempt > task.max_attempts OR task.attempt < 0
    OR task.attempt <> coalesce(history.claims, 0) - coalesce(history.requeues, 0))""",
    ),
    Check(
        "leases",
        "A running task has a claim and a lease, and is swept within three leases; no other task has either.",
        """
SELECT id AS subject, CASE
    WHEN status <> 'running' THEN format('it is %%s, and has a claim or a lease', status)
    WHEN claim IS NULL OR lease_until IS NULL THEN 'it is running without a claim or a lease'
    ELSE format('its lease ended %%s s ago', round(extract(epoch FROM now() - lease_until)::numeric, 1)) END AS detail
FROM tasks WHERE id >= %(floor)s AND CASE
    WHEN status <> 'running' THEN claim IS NOT NULL OR lease_until IS NOT NULL
    ELSE claim IS NULL OR lease_until IS NULL OR lease_until < now() - 2 * %(lease)s * interval '1 second' END""",
    ),
    Check(
        "payload",
        "A task has params; a succeeded one has a result and no error, one that ended otherwise an error and no result.",
        f"""
SELECT task.id AS subject, CASE
    WHEN payload.task_id IS NULL THEN 'it has no payload'
    WHEN task.status = 'succeeded' THEN 'it succeeded without a result, or with an error'
    ELSE format('it is %%s without an error, or with a result', task.status) END AS detail
FROM tasks AS task LEFT JOIN task_payloads AS payload ON payload.task_id = task.id
WHERE task.id >= %(floor)s AND CASE
    WHEN payload.task_id IS NULL THEN true
    WHEN task.status = 'succeeded' THEN payload.result IS NULL OR payload.error IS NOT NULL
    WHEN task.status IN ({_DONE}) THEN payload.error IS NULL OR payload.result IS NOT NULL
    ELSE payload.result IS NOT NULL END""",
    ),
    Check(
        "times",
        "A task that is done has the times of its end and of its purge; no other task has them.",
        f"""
SELECT id AS subject, format('it is %%s, finished at %%s, to be purged at %%s', status, coalesce(finished_at::text, 'no time'),
    coalesce(purge_at::text, 'no time')) AS detail
FROM tasks WHERE id >= %(floor)s AND ((status IN ({_DONE})) <> (finished_at IS NOT NULL)
    OR (status IN ({_DONE})) <> (purge_at IS NOT NULL) OR (status = 'retrying') <> (next_attempt_at IS NOT NULL))""",
    ),
    Check(
        "deleted-rows",
        "An accepted task is stored, or has a tombstone.",
        """
SELECT trace.task_id AS subject,
    'its row is missing, but not ' || string_agg(trace.what, ', ' ORDER BY trace.what) AS detail
FROM (
    SELECT DISTINCT task_id, 'its history' AS what FROM task_events WHERE task_id >= %(floor)s
    UNION ALL SELECT task_id, 'its payload' FROM task_payloads WHERE task_id >= %(floor)s
    UNION ALL SELECT DISTINCT task_id, 'a link to a file' FROM task_files WHERE task_id >= %(floor)s
    UNION ALL SELECT task_id, 'its uniqueness' FROM unique_tasks WHERE task_id >= %(floor)s
    UNION ALL SELECT DISTINCT task_id, 'an intent' FROM email_intents WHERE task_id >= %(floor)s
    UNION ALL SELECT DISTINCT task_id, 'a receipt' FROM email_receipts WHERE task_id >= %(floor)s
    UNION ALL SELECT task_id, 'its progress on many tasks' FROM bulk_actions WHERE task_id >= %(floor)s
    UNION ALL SELECT task_id, 'an artifact' FROM files WHERE task_id >= %(floor)s
    UNION ALL SELECT task_id, 'what follows its end' FROM task_follow_ups WHERE task_id >= %(floor)s
) AS trace
WHERE NOT EXISTS (SELECT FROM tasks AS task WHERE task.id = trace.task_id) GROUP BY trace.task_id""",
    ),
    Check(
        "slots",
        "A slot of a schedule has one task, which is stored or has a tombstone.",
        """
SELECT slot.task_id AS subject, format('the task of the slot %%s is missing and has no tombstone', slot.slot) AS detail
FROM schedule_slots AS slot
WHERE slot.task_id >= %(floor)s AND NOT EXISTS (SELECT FROM tasks AS task WHERE task.id = slot.task_id)
    AND NOT EXISTS (SELECT FROM tombstones AS tombstone WHERE tombstone.id = slot.task_id)
UNION ALL
SELECT task.id, 'it belongs to a schedule, and has no slot' FROM tasks AS task
WHERE task.id >= %(floor)s AND task.schedule_id IS NOT NULL AND task.created_at > now() - interval '6 days'
    -- The slot of a workflow names the task of its first step.
    AND task.workflow_id IS NULL
    AND NOT EXISTS (SELECT FROM schedule_slots AS slot WHERE slot.task_id = task.id)
    AND EXISTS (SELECT FROM schedules AS schedule WHERE schedule.id = task.schedule_id)""",
    ),
    Check(
        "schedules",
        "While beat runs, it checks each enabled schedule within two minutes of its next time.",
        """
SELECT schedule.id AS subject, format('beat did not check it at its next time, %%s', schedule.next_at) AS detail
FROM schedules AS schedule
WHERE schedule.enabled AND schedule.next_at < now() - interval '2 minutes' AND schedule.planned_at < now() - interval '2 minutes'
    AND NOT EXISTS (SELECT FROM organizations AS organization
        WHERE organization.id = schedule.organization_id AND organization.disabled_at IS NOT NULL)
    AND EXISTS (SELECT FROM signs_of_life AS sign WHERE sign.part = 'beat' AND sign.at > now() - interval '10 seconds')""",
    ),
    Check(
        "keys",
        "A person has valid keys only where the person is a member, and a key and the one that it replaces are of one caller.",
        """
SELECT key.id AS subject, 'it is valid, and its person is no member of the organization' AS detail
FROM api_keys AS key JOIN callers AS caller ON caller.id = key.caller_id
WHERE caller.person_id IS NOT NULL AND key.revoked_at IS NULL AND (key.expires_at IS NULL OR key.expires_at > now())
    AND NOT EXISTS (SELECT FROM memberships AS membership WHERE membership.person_id = caller.person_id
        AND membership.organization_id = caller.organization_id)
UNION ALL
SELECT key.id, format('it replaces the key %%s of another caller', replaced.id)
FROM api_keys AS key JOIN api_keys AS replaced ON replaced.id = key.replaces_id
WHERE replaced.caller_id <> key.caller_id""",
    ),
    Check(
        "pauses",
        "No task of a paused queue or kind is published, so that no worker can claim it.",
        """
SELECT task.id AS subject, format('it is published although its %%s is paused since %%s', pause.target, pause.since) AS detail
FROM tasks AS task JOIN pauses AS pause
    ON (pause.target, pause.name) IN (('queue', task.queue), ('kind', task.kind))
WHERE task.id >= %(floor)s AND task.status = 'queued' AND task.rung_at IS NOT NULL AND task.kind <> 'platform.canary'""",
    ),
    Check(
        "key-limits",
        "No more tasks of a key are published or running than the least limit among them, and no blocked one is published.",
        """
SELECT (array_agg(task.id ORDER BY task.id DESC))[1] AS subject, format('%%s tasks of its key are published or running; one of '
    'them allows %%s', count(*), min((task.key_limits->'concurrency'->>'limit')::int)) AS detail
FROM tasks AS task
WHERE task.id >= %(floor)s AND task.key_limits ? 'concurrency'
    AND (task.status = 'running' OR (task.status = 'queued' AND task.rung_at IS NOT NULL))
GROUP BY task.organization_id, task.key_limits->'concurrency'->>'key'
HAVING count(*) > min((task.key_limits->'concurrency'->>'limit')::int)
UNION ALL
SELECT id, 'it is blocked, and published, or names no limit of a key' FROM tasks
WHERE id >= %(floor)s AND status = 'queued' AND blocked_at IS NOT NULL AND (rung_at IS NOT NULL OR key_limits IS NULL)""",
    ),
    Check(
        "rates",
        "When an attempt started, no more of its key had started within the period of its rate than it allows.",
        """
SELECT task.id AS subject, format('%%s attempts of its key started within %%s s; it allows %%s', earlier.starts,
    task.key_limits->'rate'->>'period_seconds', task.key_limits->'rate'->>'limit') AS detail
FROM rate_starts AS start JOIN tasks AS task ON task.id = start.task_id CROSS JOIN LATERAL (
    SELECT count(*) AS starts FROM rate_starts AS other
    WHERE other.organization_id = start.organization_id AND other.key = start.key AND other.at <= start.at
        AND other.at > start.at - (task.key_limits->'rate'->>'period_seconds')::int * interval '1 second') AS earlier
WHERE task.id >= %(floor)s AND earlier.starts > (task.key_limits->'rate'->>'limit')::int""",
    ),
    Check(
        "running-limits",
        "No task is published while more tasks of its caller or organization are published or running than may run at once.",
        f"""
WITH subjects AS (
    SELECT DISTINCT subject.scope, subject.id FROM tasks AS task
    CROSS JOIN LATERAL (VALUES ('caller', task.owner_id), ('organization', task.organization_id)) AS subject (scope, id)
    WHERE task.status = 'queued' AND task.rung_at IS NOT NULL
),
{RUNNING_LIMITS}
SELECT task.id AS subject, format('it is published, and %%s more than the limit %%s of its %%s', -running_limit.free,
    running_limit.name, running_limit.scope) AS detail
FROM running_limits AS running_limit JOIN tasks AS task
    ON {
            limits_task(
                "running_limit",
                owner="task.owner_id",
                organization="task.organization_id",
                queue="task.queue",
                kind="task.kind",
            )
        }
WHERE task.id >= %(floor)s AND running_limit.free < 0 AND task.status = 'queued' AND task.rung_at IS NOT NULL""",
    ),
    Check(
        "bulk-actions",
        "A task that acted on many tasks and succeeded reports as many as its steps have stored.",
        """
SELECT task.id AS subject, format('it reports %%s changed tasks, and its steps stored %%s', coalesce(payload.result->>'changed',
    'no'), bulk.changed) AS detail
FROM bulk_actions AS bulk JOIN tasks AS task ON task.id = bulk.task_id JOIN task_payloads AS payload ON payload.task_id = task.id
WHERE bulk.task_id >= %(floor)s AND task.status = 'succeeded'
    AND (payload.result->>'changed' IS DISTINCT FROM bulk.changed::text
        OR payload.result->'refused' IS DISTINCT FROM bulk.refused)""",
    ),
    Check(
        "webhooks",
        "The end of a task has a delivery for each endpoint that matches it, and for the webhook of its submission.",
        f"""
SELECT task.id AS subject, format('it is %%s, and there is no delivery to the endpoint %%s', task.status, endpoint.id) AS detail
FROM webhook_endpoints AS endpoint JOIN tasks AS task ON task.organization_id = endpoint.organization_id
WHERE task.id >= %(floor)s AND task.status IN ({_DONE}) AND endpoint.enabled AND endpoint.updated_at < task.finished_at
    AND task.finished_at > now() - interval '29 days' AND ('task.' || task.status) = ANY (endpoint.event_types)
    AND (endpoint.kinds = '{{}}' OR task.kind = ANY (endpoint.kinds)) AND (endpoint.tags = '{{}}' OR endpoint.tags && task.tags)
    AND NOT EXISTS (SELECT FROM webhook_deliveries AS delivery
        WHERE delivery.task_id = task.id AND delivery.endpoint_id = endpoint.id)
UNION ALL
SELECT task.id, format('it is %%s, and no delivery goes to the webhook of its submission', task.status)
FROM task_follow_ups AS follow_up JOIN tasks AS task ON task.id = follow_up.task_id
WHERE task.id >= %(floor)s AND task.status IN ({_DONE}) AND task.finished_at > now() - interval '29 days'
    AND follow_up.webhook_url IS NOT NULL AND NOT EXISTS (SELECT FROM webhook_deliveries AS delivery
        WHERE delivery.task_id = task.id AND delivery.url = follow_up.webhook_url)""",
    ),
    Check(
        "webhook-deliveries",
        "A delivery that has not ended has a task that sends it, or waits for others that are on their way to its receiver, or to "
        "slow receivers if it is slow.",
        """
SELECT coalesce(delivery.task_id, delivery.id) AS subject,
    format('the delivery %%s is %%s, and no task will send it', delivery.id, delivery.state) AS detail
FROM webhook_deliveries AS delivery LEFT JOIN tasks AS task ON task.id = delivery.send_task_id
WHERE delivery.id >= %(floor)s AND delivery.finished_at IS NULL AND CASE
    WHEN delivery.state <> 'waiting' THEN task.id IS NULL OR task.finished_at IS NOT NULL
    ELSE NOT EXISTS (SELECT FROM webhook_deliveries AS other JOIN tasks AS sender ON sender.id = other.send_task_id
        WHERE other.finished_at IS NULL AND other.next_try_at IS NULL
            AND other.state IN ('pending', 'sending') AND sender.finished_at IS NULL
            AND (other.receiver_id = delivery.receiver_id
                OR (EXISTS (SELECT FROM slow_receivers AS slow WHERE slow.receiver_id = delivery.receiver_id)
                    AND EXISTS (SELECT FROM slow_receivers AS slow WHERE slow.receiver_id = other.receiver_id)))) END""",
    ),
    Check(
        "idempotency-keys",
        "The task or batch of an idempotency key is stored, or was purged.",
        """
SELECT key.subject_id AS subject, format('a key of %%s names a task that is missing and has no tombstone', key.owner_id) AS detail
FROM idempotency_keys AS key
WHERE key.subject_id >= %(floor)s
    AND NOT EXISTS (SELECT FROM tasks AS task WHERE task.id = key.subject_id)
    AND NOT EXISTS (SELECT FROM tasks AS task WHERE task.batch_id = key.subject_id)
    AND NOT EXISTS (SELECT FROM workflows AS workflow WHERE workflow.id = key.subject_id)
    -- A batch has no tombstone of its own, so any task of the owner that was purged since may have been one of the batch.
    AND NOT EXISTS (SELECT FROM tombstones AS tombstone WHERE tombstone.owner_id = key.owner_id
        AND tombstone.subject = 'task' AND tombstone.purged_at >= key.created_at)""",
    ),
    Check(
        "workflows",
        "A step of a workflow starts when the steps before it have ended, and its workflow is finished when all steps are.",
        """
SELECT step.workflow_id AS subject, CASE
    WHEN step.status = 'waiting' AND step.is_ready THEN format('the steps before %%s have ended, and it still waits', step.name)
    WHEN step.status = 'waiting' THEN format('the step %%s waits, and its task is %%s', step.name,
        coalesce(step.task_status, 'missing'))
    ELSE format('the step %%s is %%s, and its task is %%s', step.name, step.status, coalesce(step.task_status, 'missing'))
    END AS detail
FROM (
    SELECT one.*, task.status AS task_status, NOT EXISTS (
        SELECT FROM workflow_steps AS earlier WHERE earlier.workflow_id = one.workflow_id AND earlier.name = ANY (one.after)
            AND earlier.status IN ('waiting', 'running')) AS is_ready,
        CASE WHEN one.for_each IS NULL THEN task.finished_at IS NULL ELSE EXISTS (SELECT FROM tasks AS each
            WHERE each.workflow_id = one.workflow_id AND each.workflow_step = one.name AND each.finished_at IS NULL)
            END AS is_live,
        workflow.finished_at IS NOT NULL AND task.id IS NULL AS may_be_erased
    FROM workflow_steps AS one JOIN workflows AS workflow ON workflow.id = one.workflow_id
    LEFT JOIN tasks AS task ON task.id = one.task_id
    WHERE one.workflow_id >= %(floor)s) AS step
WHERE NOT step.may_be_erased AND CASE step.status
    WHEN 'waiting' THEN step.is_ready OR step.for_each IS NULL AND step.task_status IS DISTINCT FROM 'scheduled'
    WHEN 'running' THEN NOT step.is_live
    ELSE step.is_live OR step.for_each IS NULL AND step.task_status IS DISTINCT FROM step.status END
UNION ALL
SELECT step.workflow_id, format('the step %%s runs, and a step before it has not ended', step.name)
FROM workflow_steps AS step JOIN tasks AS task ON task.id = step.task_id
WHERE step.workflow_id >= %(floor)s AND step.started_at IS NULL AND task.status IN ('queued', 'running', 'retrying')
UNION ALL
SELECT workflow.id, format('it is %%s, and %%s of its steps have not ended', workflow.status, steps.live)
FROM workflows AS workflow CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE step.status IN ('waiting', 'running')) AS live
    FROM workflow_steps AS step WHERE step.workflow_id = workflow.id) AS steps
WHERE workflow.id >= %(floor)s AND (steps.live = 0) <> (workflow.finished_at IS NOT NULL)
UNION ALL
SELECT task.id, 'its workflow is missing' FROM tasks AS task
WHERE task.id >= %(floor)s AND task.workflow_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM workflows AS workflow WHERE workflow.id = task.workflow_id)""",
    ),
    Check(
        "batches",
        "What a batch submits when its last task has ended is submitted then.",
        """
SELECT batch.batch_id AS subject, CASE WHEN batch.task_id IS NULL THEN 'all its tasks have ended, and on_finished is not submitted'
    ELSE 'the task of its on_finished is missing' END AS detail
FROM batch_follow_ups AS batch
WHERE batch.batch_id >= %(floor)s AND CASE WHEN batch.task_id IS NULL
    THEN EXISTS (SELECT FROM tasks AS task WHERE task.batch_id = batch.batch_id)
        AND NOT EXISTS (SELECT FROM tasks AS task WHERE task.batch_id = batch.batch_id AND task.finished_at IS NULL)
    ELSE NOT EXISTS (SELECT FROM tasks AS task WHERE task.id = batch.task_id)
        AND NOT EXISTS (SELECT FROM tombstones AS tombstone WHERE tombstone.id = batch.task_id)
        AND EXISTS (SELECT FROM tasks AS task WHERE task.batch_id = batch.batch_id) END""",
    ),
    Check(
        "tombstones",
        "A task or file with a tombstone is no longer stored.",
        """
SELECT task.id AS subject, 'it is stored, and has a tombstone' AS detail
FROM tombstones AS tombstone JOIN tasks AS task ON task.id = tombstone.id WHERE tombstone.id >= %(floor)s
UNION ALL
SELECT coalesce(file.task_id, file.id), format('the file %%s is stored, and has a tombstone', file.id)
FROM tombstones AS tombstone JOIN files AS file ON file.id = tombstone.id WHERE tombstone.id >= %(floor)s""",
    ),
    Check(
        "receipts",
        "A receipt belongs to an intent of its task, and to one of the intent's recipients.",
        """
SELECT receipt.task_id AS subject, CASE
    WHEN intent.id IS NULL THEN 'a receipt has no intent'
    WHEN intent.task_id <> receipt.task_id THEN format('a receipt belongs to the intent of the task %%s', intent.task_id)
    ELSE 'a receipt is for a recipient whom the intent does not name' END AS detail
FROM email_receipts AS receipt LEFT JOIN email_intents AS intent ON intent.id = receipt.intent_id
WHERE receipt.task_id >= %(floor)s AND (intent.id IS NULL OR intent.task_id <> receipt.task_id
    OR receipt.recipient <> ALL (intent.recipients))""",
    ),
    Check(
        "sent-once",
        "The mail server accepts a message for a recipient once, and once more for each retry by a caller.",
        """
SELECT accepted.task_id AS subject, format('accepted %%s times for one recipient, with %%s retries by a caller', accepted.times,
    coalesce(asked.retries, 0)) AS detail
FROM (
    SELECT task_id, recipient, count(*) AS times FROM email_receipts
    WHERE task_id >= %(floor)s AND status = 'accepted' GROUP BY task_id, recipient HAVING count(*) > 1) AS accepted
LEFT JOIN LATERAL (
    SELECT count(*) AS retries FROM task_events AS event
    WHERE event.task_id = accepted.task_id AND event.type = 'status' AND (event.data->>'retried')::boolean) AS asked ON true
WHERE accepted.times > 1 + coalesce(asked.retries, 0)""",
    ),
    Check(
        "delivery-unknown",
        "A task that is done without knowing whether its message was sent ends with /problems/delivery-unknown.",
        f"""
SELECT task.id AS subject, format('it is %%s (%%s), and an intent of it lacks a receipt', task.status,
    coalesce(payload.error->>'type', 'no error')) AS detail
FROM tasks AS task JOIN ({_INTENTS_WITHOUT_RECEIPT}) AS unanswered ON unanswered.task_id = task.id
LEFT JOIN task_payloads AS payload ON payload.task_id = task.id
WHERE task.status IN ({_DONE}) AND payload.error->>'type' IS DISTINCT FROM '/problems/delivery-unknown'
GROUP BY task.id, task.status, payload.error->>'type'""",
    ),
    Check(
        "artifacts",
        "An artifact belongs to a succeeded task, which refers to it.",
        """
SELECT file.task_id AS subject, CASE
    WHEN task.status <> 'succeeded' THEN format('it is %%s, and has the artifact %%s', task.status, file.id)
    ELSE format('it does not refer to its artifact %%s', file.id) END AS detail
FROM files AS file JOIN tasks AS task ON task.id = file.task_id
LEFT JOIN task_files AS link ON link.task_id = file.task_id AND link.file_id = file.id AND link.role = 'artifact'
WHERE file.task_id >= %(floor)s AND (task.status <> 'succeeded' OR link.file_id IS NULL)""",
    ),
    Check(
        "file-links",
        "Each input and artifact of a task is a stored file, and each artifact is its own.",
        """
SELECT link.task_id AS subject, CASE WHEN file.id IS NULL THEN format('its %%s %%s is missing', link.role, link.file_id)
    ELSE format('it refers to the artifact %%s of another task', link.file_id) END AS detail
FROM task_files AS link LEFT JOIN files AS file ON file.id = link.file_id
WHERE link.task_id >= %(floor)s
    AND (file.id IS NULL OR (link.role = 'artifact' AND file.task_id IS DISTINCT FROM link.task_id))""",
    ),
    Check(
        "audit-entries",
        "An entry of the audit log is as it was when it was sealed, or waits for its seal.",
        f"""
SELECT sealed.entry_id AS subject, format('it is missing, and the seal %%s covers it', seal.number) AS detail
FROM audit_seals AS seal CROSS JOIN LATERAL unnest(seal.entry_ids) AS sealed (entry_id)
WHERE sealed.entry_id >= %(floor)s AND NOT EXISTS (SELECT FROM audit_entries AS entry WHERE entry.id = sealed.entry_id)
UNION ALL
SELECT seal.entry_ids[1], format('an entry of the seal %%s, of which this is the first, was changed', seal.number)
FROM audit_seals AS seal
WHERE seal.entry_ids[cardinality(seal.entry_ids)] >= %(floor)s AND seal.entries_sha256 <> {hash_entries("seal.entry_ids")}
    AND NOT EXISTS (SELECT FROM unnest(seal.entry_ids) AS sealed (entry_id)
        WHERE NOT EXISTS (SELECT FROM audit_entries AS entry WHERE entry.id = sealed.entry_id))
UNION ALL
SELECT entry.id, 'it was inserted past the triggers, or its seal was removed: no seal covers it, and it waits for none'
FROM audit_entries AS entry
WHERE entry.id >= %(floor)s AND NOT EXISTS (SELECT FROM audit_unsealed AS unsealed WHERE unsealed.entry_id = entry.id)
    AND NOT EXISTS (SELECT FROM (SELECT unnest(entry_ids) AS entry_id FROM audit_seals) AS sealed WHERE sealed.entry_id = entry.id)
UNION ALL
SELECT unsealed.entry_id, 'it was removed before it was sealed' FROM audit_unsealed AS unsealed
WHERE unsealed.entry_id >= %(floor)s AND NOT EXISTS (SELECT FROM audit_entries AS entry WHERE entry.id = unsealed.entry_id)
UNION ALL
-- A transaction that writes entries lasts seconds; a clock that was set back may add some.
SELECT entry.id, format('its time is %%s, and the seal %%s, which is not the first after that, covers it', entry.at, seal.number)
FROM (SELECT seal.*, lag(sealed_at) OVER (ORDER BY number) AS earlier FROM audit_seals AS seal) AS seal
JOIN audit_entries AS entry ON entry.id = ANY (seal.entry_ids)
WHERE entry.id >= %(floor)s AND entry.at < seal.earlier - interval '1 hour'""",
    ),
    Check(
        "audit-seals",
        "The seals of the audit log are one chain, of which only the oldest may have been deleted.",
        f"""
SELECT coalesce(seal.entry_ids[1], '00000000-0000-0000-0000-000000000000') AS subject, CASE
    WHEN seal.number IS NULL THEN format('the chain has %%s seals, and the last of them is missing', chain.last_number)
    WHEN seal.number <> seal.expected THEN format('the seal %%s follows, and the seal %%s is missing', seal.number, seal.expected)
    WHEN seal.sha256 <> {hash_seal("seal")} THEN format('the seal %%s was changed', seal.number)
    WHEN seal.previous_sha256 <> seal.before THEN format('the seal %%s does not follow the one before it', seal.number)
    ELSE format('the seal %%s is the last, and the chain ends with the seal %%s', seal.number, chain.last_number) END AS detail
FROM audit_chain AS chain LEFT JOIN (
    SELECT seal.*, chain.last_number, lead(seal.number) OVER numbers IS NULL AS is_last,
        coalesce(lag(seal.number) OVER numbers, chain.deleted_number) + 1 AS expected,
        coalesce(lag(seal.sha256) OVER numbers, chain.deleted_sha256) AS before
    FROM audit_seals AS seal CROSS JOIN audit_chain AS chain WINDOW numbers AS (ORDER BY seal.number)) AS seal ON true
WHERE CASE WHEN seal.number IS NULL THEN chain.last_number <> chain.deleted_number
    ELSE seal.number <> seal.expected OR seal.sha256 <> {hash_seal("seal")} OR seal.previous_sha256 <> seal.before
        OR seal.is_last AND (seal.number, seal.sha256) IS DISTINCT FROM (chain.last_number, chain.last_sha256) END
UNION ALL
SELECT '00000000-0000-0000-0000-000000000000', 'the row of the chain of seals is missing'
WHERE NOT EXISTS (SELECT FROM audit_chain)""",
    ),
    Check(
        "sessions",
        "One refresh token of a session is unused at most, and a deleted person has no password, role, membership or session.",
        """
SELECT token.session_id AS subject, format('%%s of its refresh tokens are unused', count(*)) AS detail
FROM refresh_tokens AS token WHERE token.used_at IS NULL GROUP BY token.session_id HAVING count(*) > 1
UNION ALL
SELECT person.id, 'the person is deleted and could sign in or act' FROM people AS person
WHERE person.email_key = 'deleted ' || person.id AND (person.password_hash IS NOT NULL OR person.platform_role IS NOT NULL
    OR person.disabled_at IS NULL OR EXISTS (SELECT FROM memberships WHERE person_id = person.id)
    OR EXISTS (SELECT FROM sessions WHERE person_id = person.id AND ended_at IS NULL))""",
    ),
    Check(
        "usage",
        "The tasks of an owner and day that are stored are counted, and so is each byte of a stored file.",
        """
SELECT task.owner_id AS subject, format('%%s tasks of %%s are stored, and %%s are counted', task.stored, task.day,
    coalesce(counted.tasks, 0)) AS detail
FROM (
    SELECT organization_id, owner_id, (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS stored FROM tasks
    WHERE id >= %(floor)s AND organization_id <> '00000000-0000-7000-8000-000000000000' GROUP BY 1, 2, 3) AS task
LEFT JOIN (
    SELECT organization_id, owner_id, day, sum(tasks) AS tasks FROM usage_by_day GROUP BY 1, 2, 3) AS counted
    USING (organization_id, owner_id, day)
WHERE task.day >= (SELECT min(day) FROM usage_by_day) AND task.stored > coalesce(counted.tasks, 0)
UNION ALL
SELECT coalesce(file.owner_id, counted.owner_id), format('%%s bytes are stored, and %%s are counted', coalesce(file.bytes, 0),
    coalesce(counted.bytes, 0))
FROM (SELECT organization_id, owner_id, sum(size) AS bytes FROM files GROUP BY 1, 2) AS file
FULL JOIN (SELECT organization_id, owner_id, sum(bytes) AS bytes FROM stored_bytes GROUP BY 1, 2) AS counted
    USING (organization_id, owner_id)
WHERE coalesce(file.bytes, 0) <> coalesce(counted.bytes, 0)
UNION ALL
SELECT known.subject_id, format('it has %%s live tasks, and its bound is %%s', live.tasks, known.bound)
FROM live_task_bounds AS known CROSS JOIN LATERAL (
    SELECT count(*) AS tasks FROM tasks AS task WHERE task.finished_at IS NULL
        AND CASE known.scope WHEN 'caller' THEN task.owner_id ELSE task.organization_id END = known.subject_id) AS live
WHERE known.bound < live.tasks AND EXISTS (SELECT FROM limits AS quota WHERE quota.name = 'live_tasks'
    AND quota.scope = known.scope AND quota.subject_id = known.subject_id AND quota.amount IS NOT NULL)""",
    ),
)

LIST_FILES: Final = """
SELECT id, task_id, storage_key, size, sha256 FROM files WHERE id >= %(floor)s ORDER BY id"""
"""List the files whose objects must exist."""

LIST_STORED: Final = "SELECT id FROM files WHERE id = ANY(%(ids)s::uuid[])"
"""Of these files, list those that still exist: a file without its object may have been deleted since the snapshot."""

LIST_REFERRED_KEYS: Final = "SELECT storage_key FROM files WHERE storage_key = ANY(%(keys)s::text[])"
"""Of these storage keys, list those that a file refers to."""
