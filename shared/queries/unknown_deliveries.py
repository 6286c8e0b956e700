"""What the error of an email that ends unsent says of its recipients, as SQL within the statements that end tasks."""

from __future__ import annotations

from typing import Final

import orjson

_UNKNOWN: Final = orjson.dumps(
    {
        "type": "/problems/delivery-unknown",
        "title": "Delivery unknown",
        "detail": "The message was on its way when the attempt or its connection ended; whether the server took it cannot be "
        "known. A retry sends it to those recipients of whom nothing is known, who may then have it twice.",
        "retryable": False,
    }
).decode()

# A receipt is asked for by a subquery that is no join, for each recipient: a join may be planned to read all receipts.

_RECIPIENTS: Final = """jsonb_build_object('data', jsonb_build_object('recipients', (
            SELECT jsonb_agg(jsonb_build_object('address', k.recipient, 'status', coalesce(k.status, 'unknown'),
                'code', k.code, 'reply', coalesce(k.reply, '')))
            FROM (
                SELECT DISTINCT ON (x.recipient) x.recipient, r.status, r.code, r.reply
                FROM email_intents i CROSS JOIN LATERAL unnest(i.recipients) AS x (recipient)
                LEFT JOIN LATERAL (
                    SELECT * FROM email_receipts y WHERE y.intent_id = i.id AND y.recipient = x.recipient LIMIT 1) AS r ON true
                WHERE i.task_id = ANY (ARRAY[u.id]) ORDER BY x.recipient, i.created_at DESC) AS k)))"""


def end_with(error: str) -> str:
    """Give the error that a task `u` ends with: this one, unless a message of it is on a way that nobody knows the end of.

    Either tells what is known of each recipient to whom the message was to go.
    """
    return f"""CASE WHEN NOT EXISTS (SELECT FROM email_intents i WHERE i.task_id = ANY (ARRAY[u.id])) THEN {error}
        ELSE (CASE WHEN EXISTS (
            SELECT FROM email_intents i CROSS JOIN LATERAL unnest(i.recipients) AS x (recipient)
            WHERE i.task_id = ANY (ARRAY[u.id]) AND i.given_up_at IS NULL
                AND (SELECT count(*) FROM email_receipts r WHERE r.intent_id = i.id AND r.recipient = x.recipient) = 0)
            THEN '{_UNKNOWN}'::jsonb ELSE {error} END) || {_RECIPIENTS} END"""
