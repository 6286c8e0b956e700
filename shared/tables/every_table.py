"""All tables. Importing this module loads the whole schema into the metadata, which migrations and tests need."""

from __future__ import annotations

from shared.tables import (
    batches,
    bulk_actions,
    callers,
    emails,
    files,
    queues,
    schedules,
    tasks,
    turns,
    webhooks,
    workflows,
)

EVERY_TABLE = (
    callers.organizations,
    callers.callers,
    callers.api_keys,
    files.files,
    tasks.tasks,
    tasks.task_payloads,
    tasks.task_events,
    tasks.task_files,
    tasks.idempotency_keys,
    tasks.unique_tasks,
    tasks.tombstones,
    batches.batch_follow_ups,
    workflows.workflows,
    workflows.workflow_steps,
    bulk_actions.bulk_actions,
    emails.email_intents,
    emails.email_receipts,
    schedules.schedules,
    schedules.schedule_slots,
    schedules.signs_of_life,
    queues.pauses,
    queues.queue_activity,
    webhooks.webhook_endpoints,
    webhooks.webhook_secrets,
    webhooks.webhook_deliveries,
    webhooks.webhook_tries,
    webhooks.task_follow_ups,
    turns.queue_turns,
    turns.caller_turns,
)
