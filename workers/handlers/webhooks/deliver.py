"""Sends one webhook, and records what came back.

The order of the steps:

1. With the receiver locked, the delivery either begins a try, or waits because enough others are on their way to the receiver.
2. The request is sent. No transaction is open meanwhile.
3. With the receiver locked, the end of the try is recorded, and deliveries that wait for the receiver are started.

A delivery may arrive twice, if the attempt ends between 2 and 3. The receiver knows it by its `webhook-id`.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import Connection

from shared.contracts.webhooks.deliver import KIND, DeliverParams, DeliverResult
from shared.queries import webhooks as queries
from shared.stored_secrets import SecretCipher, UnreadableSecret
from shared.version import VERSION
from shared.webhooks.events import PING
from shared.webhooks.signing import SECRET_PURPOSE, make_headers, new_secret
from workers.adapters.address_guard import AddressGuard
from workers.adapters.http_client import HttpAnswer, HttpClient, RequestFailed
from workers.handler_context import HandlerContext
from workers.outcomes import Failed

KEPT_ANSWER_BYTES: Final = 1024
SLOW_MS: Final = 2000
GONE: Final = 410
LONGEST_RETRY_AFTER_SECONDS: Final = 3 * 86_400.0
NO_REDIRECTS: Final = "A redirect is not followed. Change the URL to the one that it leads to."
RETRY_AFTER_JITTER: Final = 0.1
"""By how much of its value a wait that the receiver asked for is lengthened at random."""


class End(NamedTuple):
    """How a try ended: with an answer, or with the word and the sentence of why there is none."""

    duration_ms: int
    status: int | None = None
    error: str | None = None
    detail: str | None = None
    answer: str | None = None
    retry_after_seconds: float | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver answered with 2xx."""
        return self.status is not None and 200 <= self.status <= 299

    @property
    def is_slow(self) -> bool:
        """Whether the receiver took so long that it may only share a few slots with others that do."""
        return self.error == "timed_out" or self.duration_ms >= SLOW_MS

    def describe(self) -> str:
        """Return what happened, as a sentence."""
        return self.detail or f"The receiver answered with the status {self.status}."


def handle(params: DeliverParams, context: HandlerContext) -> DeliverResult:
    """Send through a client that refuses addresses which are not public, unless the settings allow them."""
    return deliver(params, context, HttpClient(AddressGuard(context.settings.allowed_networks)))


def deliver(params: DeliverParams, context: HandlerContext, client: HttpClient) -> DeliverResult:
    """Send the delivery once. Raises `Failed`, retryable until its time is over."""
    delivery_id = params.delivery_id
    with context.fenced_transaction() as connection:
        connection.exec_driver_sql(queries.LOCK_RECEIVER_OF, {"id": delivery_id})
        delivery = _find(connection, delivery_id)
        if delivery is None or delivery.state in {"delivered", "failed"}:
            return DeliverResult(outcome="gone")
        if delivery.send_task_id != context.task_id:
            # It ended, and was sent again by another task, before this attempt could end.
            return DeliverResult(outcome="gone")
        if not delivery.has_room:
            connection.exec_driver_sql(queries.MARK_WAITING, {"id": delivery_id})
            return DeliverResult(outcome="waiting")
        if delivery.secret is None:
            stored = SecretCipher(context.settings).encrypt(new_secret(), SECRET_PURPOSE)
            connection.execute(queries.store_default_secret(delivery.organization_id, stored))
            delivery = _find(connection, delivery_id)
        number = connection.exec_driver_sql(queries.BEGIN_TRY, {"id": delivery_id}).scalar_one()
    end = _send(delivery, context, client)
    context.log.info(
        "webhook_sent", delivery_id=str(delivery_id), status=end.status, error=end.error, duration_ms=end.duration_ms
    )
    with context.fenced_transaction() as connection:
        connection.exec_driver_sql(queries.LOCK_RECEIVER, {"receiver": delivery.receiver_id})
        values = {**end._asdict(), "id": delivery_id, "number": number}
        connection.exec_driver_sql(queries.END_TRY, values)
        delay = _record(connection, delivery, end, context.attempt)
        parameters = {"receiver": delivery.receiver_id, "id": delivery_id, "is_slow": end.is_slow}
        connection.exec_driver_sql(queries.NOTE_TRY, parameters)
        connection.exec_driver_sql(queries.START_WAITING, parameters)
    if end.succeeded:
        return DeliverResult(outcome="delivered", status=end.status)
    raise Failed(
        "/problems/webhook-not-delivered",
        "Webhook not delivered",
        end.describe(),
        retryable=delay is not None,
        after_seconds=delay,
        data={"status": end.status, "error": end.error},
    )


def _find(connection: Connection, delivery_id: UUID) -> Any:
    return connection.exec_driver_sql(queries.READ_DELIVERY, {"id": delivery_id}).one_or_none()


def _send(delivery: Any, context: HandlerContext, client: HttpClient) -> End:
    """Send the request, and return how the try ended."""
    began = time.monotonic()

    def end(**values: Any) -> End:
        return End(round((time.monotonic() - began) * 1000), **values)

    if not delivery.enabled and delivery.event_type != PING:
        return end(error="endpoint_disabled", detail="The endpoint is disabled. Enable it, and redeliver.")
    if delivery.data is None:
        return end(error="data_erased", detail="The content of the message was erased with its task.")
    try:
        cipher = SecretCipher(context.settings)
        stored = [delivery.secret, delivery.previous_secret]
        secrets = [cipher.decrypt(value, SECRET_PURPOSE) for value in stored if value is not None]
    except UnreadableSecret as error:
        context.log.error("webhook_secret_unreadable", delivery_id=str(delivery.id), reason=str(error))
        return end(error="secret_unreadable", detail="The server cannot decrypt the secret that signs the message.")
    body = orjson.dumps(
        {
            "type": delivery.event_type,
            "timestamp": _timestamp(delivery.event_at),
            "data": orjson.Fragment(delivery.data),
        }
    )
    headers = {
        "content-type": "application/json",
        "user-agent": f"Taskmill/{VERSION}",
        **make_headers(str(delivery.id), int(time.time()), body, secrets),
    }
    try:
        answer = client.post(delivery.url, body, headers, max_body_bytes=KEPT_ANSWER_BYTES, check=context.check)
    except RequestFailed as error:
        return end(error=error.reason, detail=error.detail)
    return end(
        status=answer.status,
        answer=_as_text(answer.body),
        retry_after_seconds=_read_retry_after(answer),
        detail=NO_REDIRECTS if 300 <= answer.status < 400 else None,
    )


def _record(connection: Connection, delivery: Any, end: End, attempt: int) -> float | None:
    """Record what became of the delivery and its endpoint; return the seconds until the next try, or None for no other."""
    is_ping = delivery.event_type == PING
    if end.succeeded:
        connection.exec_driver_sql(queries.END_DELIVERY, {"id": delivery.id, "state": "delivered"})
        if delivery.endpoint_id is not None:
            connection.exec_driver_sql(queries.NOTE_SUCCESS, {"endpoint": delivery.endpoint_id})
        return None
    is_final = end.status == GONE or end.error in {"endpoint_disabled", "data_erased"}
    if delivery.endpoint_id is not None and delivery.enabled and not is_ping and end.error != "secret_unreadable":
        noted = {"endpoint": delivery.endpoint_id, "gone": end.status == GONE}
        endpoint = connection.exec_driver_sql(queries.NOTE_FAILURE, noted).one_or_none()
        is_final = is_final or (endpoint is not None and not endpoint.enabled)
    if not is_final:
        delay = end.retry_after_seconds
        if delay is None:
            delay = KIND.retry.delay_seconds(attempt, random.random())  # noqa: S311 (jitter is no secret)
        else:
            delay *= 1 + RETRY_AFTER_JITTER * random.random()  # noqa: S311
        waits = connection.exec_driver_sql(queries.WAIT_FOR_NEXT_TRY, {"id": delivery.id, "delay": delay}).first()
        if waits is not None:
            return delay
    connection.exec_driver_sql(queries.END_DELIVERY, {"id": delivery.id, "state": "failed"})
    return None


def _read_retry_after(answer: HttpAnswer) -> float | None:
    """Return the seconds of a `Retry-After` header (RFC 9110, section 10.2.3), or None without a valid one."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)) / timedelta(seconds=1)
    return min(LONGEST_RETRY_AFTER_SECONDS, max(1.0, seconds))


def _as_text(body: bytes) -> str:
    """Return bytes as a text that Postgres can store. A character that the bound of the size cut is left out."""
    return body.decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
