"""Returns rows of webhooks as the models of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from api.webhooks.webhook_models import (
    DeliveryLinks,
    EndpointLinks,
    Outcome,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookTry,
)

STATES: Final[dict[Outcome, tuple[str, ...]]] = {
    "pending": ("pending", "waiting", "sending"),
    "delivered": ("delivered",),
    "failed": ("failed",),
}
"""The states of a delivery that callers see as one outcome."""
_OUTCOMES: Final = {state: outcome for outcome, states in STATES.items() for state in states}


def endpoint_model(row: Any, **secret: str) -> WebhookEndpoint:
    """Return an endpoint, with its secret only if that is given."""
    path = f"/webhook-endpoints/{row.id}"
    return WebhookEndpoint(
        id=row.id,
        url=row.url,
        event_types=row.event_types,
        description=row.description,
        kinds=row.kinds,
        tags=row.tags,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        failing_since=row.failing_since,
        previous_secret_until=row.previous_secret_until,
        created_at=row.created_at,
        updated_at=row.updated_at,
        links=EndpointLinks(
            self=path,
            rotate=f"{path}/rotate",
            test=f"{path}/test",
            deliveries=f"/webhook-deliveries?endpoint_id={row.id}",
        ),
        **secret,
    )


def endpoint_etag(row: Any) -> str:
    """Return the entity tag of an endpoint, which changes with its settings."""
    return f'"{row.version}"'


def delivery_model(row: Any, tries: Sequence[Any] | None = None) -> WebhookDelivery:
    """Return a delivery, with its tries if they are given."""
    path = f"/webhook-deliveries/{row.id}"
    shown = {} if tries is None else {"attempts": [_try_model(one) for one in tries]}
    return WebhookDelivery(
        id=row.id,
        endpoint_id=row.endpoint_id,
        task_id=row.task_id,
        event_type=row.event_type,
        url=row.receiver_url,
        outcome=_OUTCOMES[row.state],
        tries=row.tries,
        next_try_at=row.next_try_at,
        created_at=row.created_at,
        finished_at=row.finished_at,
        links=DeliveryLinks(self=path, redeliver=f"{path}/redeliver"),
        **shown,
    )


def _try_model(row: Any) -> WebhookTry:
    return WebhookTry(
        number=row.number,
        started_at=row.started_at,
        duration_ms=row.duration_ms,
        status=row.status,
        error=row.error,
        detail=row.detail,
        answer=row.answer,
    )
