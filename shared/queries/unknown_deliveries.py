"""SQL for the final error of a task that ends without success although it may have sent something.

A kind whose effects cannot be undone records them in the tables that its contract names (`Kind.deliveries`). Every statement
that ends tasks uses `final_error`, so that these statements need not know any kind.
"""

from __future__ import annotations

from typing import Final

import orjson

from shared.contracts.catalog import list_kinds

_UNKNOWN: Final = orjson.dumps(
    {
        "type": "/problems/delivery-unknown",
        "title": "Delivery unknown",
        "detail": "The attempt or its connection ended while the message was being sent, so it is unknown whether the server "
        "accepted it. A retry sends it to the recipients whose status is unknown, who may then receive it twice.",
        "retryable": False,
    }
).decode()


def _list_delivery_tables() -> list[tuple[str, str]]:
    """Return the tables of intents and receipts of every kind that has them, each pair once."""
    names = sorted({kind.deliveries for kind in list_kinds().values() if kind.deliveries is not None})
    return [(f"{name}_intents", f"{name}_receipts") for name in names]


def final_error(error: str) -> str:
    """Return SQL for the final error of the task `ended`: `error`, unless it cannot be known whether something was sent.

    In both cases, `data.recipients` lists the outcome for each recipient that an intent names. The SQL contains the table names of
    contracts and constants only, never values of a request.
    """
    for intents, receipts in _list_delivery_tables():
        error = _with_deliveries(error, intents, receipts)
    return error


def _with_deliveries(error: str, intents: str, receipts: str) -> str:
    # A receipt is looked up by a subquery for each recipient: a join may be planned to read all receipts.
    recipients = f"""jsonb_build_object('data', jsonb_build_object('recipients', (
            SELECT jsonb_agg(jsonb_build_object('address', known.recipient, 'status', coalesce(known.status, 'unknown'),
                'code', known.code, 'reply', coalesce(known.reply, '')))
            FROM (
                SELECT DISTINCT ON (addressed.recipient) addressed.recipient, receipt.status, receipt.code, receipt.reply
                FROM {intents} intent CROSS JOIN LATERAL unnest(intent.recipients) AS addressed (recipient)
                LEFT JOIN LATERAL (
                    SELECT * FROM {receipts} receipt
                    WHERE receipt.intent_id = intent.id AND receipt.recipient = addressed.recipient LIMIT 1) AS receipt ON true
                WHERE intent.task_id = ANY (ARRAY[ended.id])
                ORDER BY addressed.recipient, intent.created_at DESC) AS known)))"""
    return f"""CASE WHEN NOT EXISTS (SELECT FROM {intents} intent WHERE intent.task_id = ANY (ARRAY[ended.id])) THEN {error}
        ELSE (CASE WHEN EXISTS (
            SELECT FROM {intents} intent CROSS JOIN LATERAL unnest(intent.recipients) AS addressed (recipient)
            WHERE intent.task_id = ANY (ARRAY[ended.id]) AND intent.given_up_at IS NULL
                AND (SELECT count(*) FROM {receipts} receipt
                    WHERE receipt.intent_id = intent.id AND receipt.recipient = addressed.recipient) = 0)
            THEN '{_UNKNOWN}'::jsonb ELSE {error} END) || {recipients} END"""
