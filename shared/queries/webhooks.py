"""Statements on webhooks: endpoints, default secrets, deliveries and their tries.

Statements in capitals are plain SQL for psycopg (`exec_driver_sql` on a SQLAlchemy connection); the others are SQLAlchemy
statements. Deliveries of ended tasks are stored by a function of the database,
`taskmill_submit_webhooks_of_ends` (`migrations/functions/`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Executable, Select, cast, delete, func, null, select, update
from sqlalchemy import Text as TextType
from sqlalchemy.dialects.postgresql import insert

from shared.tables.webhooks import (
    slow_receivers,
    webhook_deliveries,
    webhook_endpoints,
    webhook_secrets,
    webhook_tries,
)

SECRET_OVERLAP: Final = timedelta(days=1)
"""How long a secret still signs, beside the new one, after it was replaced."""


def insert_endpoint(values: Mapping[str, Any]) -> Executable:
    """Store an endpoint."""
    return insert(webhook_endpoints).values(**values).returning(*webhook_endpoints.c)


def count_endpoints(organization_id: UUID) -> Select[Any]:
    """Count the endpoints of an organization."""
    return (
        select(func.count())
        .select_from(webhook_endpoints)
        .where(webhook_endpoints.c.organization_id == organization_id)
    )


def find_endpoint(endpoint_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find an endpoint: of one organization, or of any if None."""
    statement = select(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id)
    return (
        statement
        if organization_id is None
        else statement.where(webhook_endpoints.c.organization_id == organization_id)
    )


def lock_endpoint(endpoint_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find an endpoint, and lock its row against changes until the transaction ends.

    Tasks can end meanwhile: their deliveries, which refer to the endpoint, can be inserted.
    """
    return find_endpoint(endpoint_id, organization_id).with_for_update(key_share=True)


def list_endpoints(organization_id: UUID | None, before: UUID | None, limit: int) -> Select[Any]:
    """List endpoints, newest first: of one organization, or of all if None; those older than the endpoint `before`."""
    statement = select(webhook_endpoints).order_by(webhook_endpoints.c.id.desc()).limit(limit)
    if organization_id is not None:
        statement = statement.where(webhook_endpoints.c.organization_id == organization_id)
    return statement if before is None else statement.where(webhook_endpoints.c.id < before)


def change_endpoint(endpoint_id: UUID, values: Mapping[str, Any]) -> Executable:
    """Change an endpoint, and raise its version."""
    changed = {**values, "version": webhook_endpoints.c.version + 1, "updated_at": func.now()}
    return (
        update(webhook_endpoints)
        .where(webhook_endpoints.c.id == endpoint_id)
        .values(**changed)
        .returning(*webhook_endpoints.c)
    )


def rotate_secret(endpoint_id: UUID, secret: str) -> Executable:
    """Replace the secret of an endpoint. The one before signs beside it for a day."""
    values = {
        "secret": secret,
        "previous_secret": webhook_endpoints.c.secret,
        "previous_secret_until": func.now() + SECRET_OVERLAP,
    }
    return change_endpoint(endpoint_id, values)


def delete_endpoint(endpoint_id: UUID) -> Executable:
    """Delete an endpoint with its deliveries."""
    return delete(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id)


def store_default_secret(organization_id: UUID, secret: str) -> Executable:
    """Store the default secret of an organization, unless it has one."""
    return insert(webhook_secrets).values(organization_id=organization_id, secret=secret).on_conflict_do_nothing()


def find_default_secret(organization_id: UUID) -> Select[Any]:
    """Find the default secret of an organization."""
    return select(webhook_secrets).where(webhook_secrets.c.organization_id == organization_id)


def rotate_default_secret(organization_id: UUID, secret: str) -> Executable:
    """Replace the default secret of an organization. The one before signs beside it for a day."""
    values = {
        "secret": secret,
        "previous_secret": webhook_secrets.c.secret,
        "previous_secret_until": func.now() + SECRET_OVERLAP,
    }
    return (
        update(webhook_secrets)
        .where(webhook_secrets.c.organization_id == organization_id)
        .values(**values)
        .returning(*webhook_secrets.c)
    )


def list_deliveries(
    organization_id: UUID | None,
    before: UUID | None,
    limit: int,
    *,
    endpoint_id: UUID | None = None,
    task_id: UUID | None = None,
    states: Sequence[str] | None = None,
) -> Select[Any]:
    """List deliveries, newest first, with the URL that each is sent to, and without `data`."""
    statement = _select_deliveries().order_by(webhook_deliveries.c.id.desc()).limit(limit)
    if organization_id is not None:
        statement = statement.where(webhook_deliveries.c.organization_id == organization_id)
    if before is not None:
        statement = statement.where(webhook_deliveries.c.id < before)
    if endpoint_id is not None:
        statement = statement.where(webhook_deliveries.c.endpoint_id == endpoint_id)
    if task_id is not None:
        statement = statement.where(webhook_deliveries.c.task_id == task_id)
    if states is not None:
        statement = statement.where(webhook_deliveries.c.state.in_(states))
    return statement


def find_delivery(delivery_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find a delivery: of one organization, or of any if None."""
    statement = _select_deliveries().where(webhook_deliveries.c.id == delivery_id)
    return (
        statement
        if organization_id is None
        else statement.where(webhook_deliveries.c.organization_id == organization_id)
    )


def lock_delivery(delivery_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find a delivery, and lock its row until the transaction ends."""
    return find_delivery(delivery_id, organization_id).with_for_update(of=webhook_deliveries)


def _select_deliveries() -> Select[Any]:
    url = func.coalesce(webhook_deliveries.c.url, webhook_endpoints.c.url).label("receiver_url")
    columns = [column for column in webhook_deliveries.c if column.name not in {"data", "secret"}]
    has_data = webhook_deliveries.c.data.is_not(null()).label("has_data")
    is_disabled = webhook_endpoints.c.enabled.is_(False).label("endpoint_is_disabled")
    return select(*columns, url, has_data, is_disabled).select_from(webhook_deliveries.outerjoin(webhook_endpoints))


def read_data(delivery_id: UUID) -> Select[Any]:
    """Read the `data` of a delivery's body, as JSON text."""
    return select(cast(webhook_deliveries.c.data, TextType)).where(webhook_deliveries.c.id == delivery_id)


def list_tries(delivery_id: UUID) -> Select[Any]:
    """List the tries of a delivery in their order."""
    return select(webhook_tries).where(webhook_tries.c.delivery_id == delivery_id).order_by(webhook_tries.c.number)


INSERT_PING: Final = """
INSERT INTO webhook_deliveries (id, organization_id, endpoint_id, event_type, data, receiver_id, give_up_at)
SELECT %(id)s, endpoint.organization_id, endpoint.id, 'ping', json_build_object('endpoint_id', endpoint.id), endpoint.id, now()
FROM webhook_endpoints AS endpoint WHERE endpoint.id = %(endpoint_id)s"""
"""Store the delivery of a message that tests an endpoint. It is tried once, because its time is over from the beginning."""

IS_TESTED: Final = """
SELECT EXISTS (SELECT FROM webhook_deliveries AS delivery WHERE delivery.receiver_id = %(endpoint_id)s
    AND delivery.event_type = 'ping' AND delivery.finished_at IS NULL)"""
"""Return whether a message that tests an endpoint is on its way."""

START_DELIVERY: Final = "SELECT taskmill_start_delivery(%(id)s)"
"""Submit the task that sends a delivery. Returns its id."""

ALLOW_MORE_TRIES: Final = """
UPDATE webhook_deliveries SET give_up_at = now() + interval '3 days' WHERE id = %(id)s"""
"""Allow tries of a delivery for three days from now. Execute `START_DELIVERY` after it."""

# Transactions lock in this order, so that no two wait for each other: the receiver (`LOCK_RECEIVER`), slow receivers
# (`taskmill_slow_room`), deliveries, the endpoint.

LOCK_RECEIVER: Final = "SELECT pg_advisory_xact_lock(hashtextextended(%(receiver)s::text, 0))"
"""Wait until no other transaction starts or ends a try at a receiver, or deletes it. An endpoint's id is that of its receiver."""

LOCK_RECEIVER_OF: Final = """
SELECT pg_advisory_xact_lock(hashtextextended(delivery.receiver_id::text, 0)) FROM webhook_deliveries AS delivery
WHERE delivery.id = %(id)s"""
"""The same as `LOCK_RECEIVER`, for the receiver of a delivery."""

READ_DELIVERY: Final = """
SELECT delivery.id, delivery.organization_id, delivery.receiver_id, delivery.endpoint_id, delivery.event_type,
    delivery.event_at, delivery.data::text AS data, delivery.state, delivery.tries, delivery.give_up_at, delivery.send_task_id,
    coalesce(delivery.url, endpoint.url) AS url, coalesce(endpoint.enabled, true) AS enabled,
    CASE WHEN delivery.endpoint_id IS NOT NULL THEN endpoint.secret
        ELSE coalesce(delivery.secret, default_secret.secret) END AS secret,
    CASE WHEN delivery.endpoint_id IS NOT NULL THEN
            CASE WHEN endpoint.previous_secret_until > now() THEN endpoint.previous_secret END
        WHEN delivery.secret IS NULL AND default_secret.previous_secret_until > now() THEN default_secret.previous_secret
    END AS previous_secret,
    taskmill_has_room(delivery.receiver_id, delivery.id) AS has_room
FROM webhook_deliveries AS delivery
LEFT JOIN webhook_endpoints AS endpoint ON endpoint.id = delivery.endpoint_id
LEFT JOIN webhook_secrets AS default_secret ON default_secret.organization_id = delivery.organization_id
WHERE delivery.id = %(id)s"""
"""Read everything that sending a delivery needs, and whether it may be sent now. The receiver must be locked."""

MARK_WAITING: Final = "UPDATE webhook_deliveries SET state = 'waiting', next_try_at = NULL WHERE id = %(id)s"
"""Store that a delivery waits until another one to its receiver ends."""

BEGIN_TRY: Final = """
WITH interrupted AS (
    UPDATE webhook_tries SET error = 'interrupted', detail = 'The attempt ended before the answer was recorded.'
    WHERE delivery_id = %(id)s AND status IS NULL AND error IS NULL
),
sending AS (
    UPDATE webhook_deliveries SET state = 'sending', tries = tries + 1, next_try_at = NULL WHERE id = %(id)s RETURNING tries
)
INSERT INTO webhook_tries (delivery_id, number) SELECT %(id)s, tries FROM sending RETURNING number"""
"""Begin a try of a delivery. Returns its number."""

END_TRY: Final = """
UPDATE webhook_tries SET duration_ms = %(duration_ms)s, status = %(status)s, error = %(error)s, detail = %(detail)s,
    answer = %(answer)s
WHERE delivery_id = %(id)s AND number = %(number)s"""
"""Record how a try ended."""

END_DELIVERY: Final = """
UPDATE webhook_deliveries AS delivery SET state = %(state)s, next_try_at = NULL, finished_at = clock_timestamp(),
    data = CASE WHEN delivery.task_id IS NULL OR EXISTS (SELECT FROM tasks AS task WHERE task.id = delivery.task_id)
        THEN delivery.data END
WHERE delivery.id = %(id)s AND delivery.finished_at IS NULL"""
"""Record that a delivery succeeded or failed. What it contains is erased if its task was erased in the meantime."""

WAIT_FOR_NEXT_TRY: Final = """
UPDATE webhook_deliveries AS delivery SET state = 'pending', next_try_at = clock_timestamp() + %(delay)s * interval '1 second'
WHERE delivery.id = %(id)s AND clock_timestamp() + %(delay)s * interval '1 second' <= delivery.give_up_at
RETURNING delivery.id"""
"""Store when the next try of a delivery is due. Returns no row, and changes nothing, if its time is over by then."""

NOTE_SUCCESS: Final = """
UPDATE webhook_endpoints SET failing_since = NULL WHERE id = %(endpoint)s AND failing_since IS NOT NULL"""
"""Record that an endpoint accepted a delivery."""

NOTE_FAILURE: Final = """
UPDATE webhook_endpoints SET
    failing_since = coalesce(failing_since, now()),
    enabled = enabled AND NOT %(gone)s AND coalesce(failing_since > now() - interval '5 days', true),
    disabled_reason = CASE WHEN NOT enabled THEN disabled_reason WHEN %(gone)s THEN 'gone'
        WHEN failing_since <= now() - interval '5 days' THEN 'failing' END,
    version = version + CASE WHEN enabled AND (%(gone)s OR failing_since <= now() - interval '5 days') THEN 1 ELSE 0 END,
    updated_at = CASE WHEN enabled AND (%(gone)s OR failing_since <= now() - interval '5 days') THEN now() ELSE updated_at END
WHERE id = %(endpoint)s AND (enabled OR failing_since IS NULL)
RETURNING enabled, disabled_reason"""
"""Record that an endpoint did not accept a delivery. It is disabled if it is gone, or has accepted none for five days."""

NOTE_TRY: Final = "SELECT taskmill_note_try(%(receiver)s, %(id)s, %(is_slow)s)"
"""Record whether a receiver is slow, after a try has ended. The receiver must be locked."""

START_WAITING: Final = "SELECT taskmill_start_waiting(%(receiver)s, %(id)s)"
"""Start waiting deliveries of a receiver, as far as there is room. The receiver must be locked."""


def erase_data_of_tasks(task_ids: Sequence[UUID]) -> Executable:
    """Erase what deliveries contain of erased tasks. Those that are not done yet lose it once they are."""
    done = webhook_deliveries.c.finished_at.is_not(None)
    return update(webhook_deliveries).where(webhook_deliveries.c.task_id.in_(task_ids), done).values(data=null())


def drop_slow_receivers(limit: int, days: int) -> Executable:
    """Delete the rows of slow receivers whose last try was more than `days` days ago, and to whom nothing is on its way."""
    live = select(webhook_deliveries.c.id).where(
        webhook_deliveries.c.receiver_id == slow_receivers.c.receiver_id, webhook_deliveries.c.finished_at.is_(None)
    )
    old = (
        select(slow_receivers.c.receiver_id)
        .where(slow_receivers.c.last_try_at < func.now() - timedelta(days=days), ~live.exists())
        .limit(limit)
    )
    return delete(slow_receivers).where(slow_receivers.c.receiver_id.in_(old))


def drop_old_deliveries(limit: int, days: int) -> Executable:
    """Delete deliveries that ended more than `days` days ago, with their tries."""
    old = (
        select(webhook_deliveries.c.id)
        .where(webhook_deliveries.c.finished_at < func.now() - timedelta(days=days))
        .limit(limit)
    )
    return delete(webhook_deliveries).where(webhook_deliveries.c.id.in_(old))
