"""`webhooks.deliver`: sends one webhook to its receiver."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from shared.contracts.kind import Kind, Params, Result, RetryPolicy


class DeliverParams(Params):
    """Which delivery is sent."""

    delivery_id: Annotated[UUID, Field(description="The delivery, as in `GET /webhook-deliveries/<id>`.")]


class DeliverResult(Result):
    """What became of the delivery."""

    outcome: Annotated[
        Literal["delivered", "waiting", "gone"],
        Field(
            description="`waiting`: as many deliveries as may are on their way to this receiver, and the end of one starts this "
            "one; `gone`: the delivery was deleted, or had ended already."
        ),
    ]
    status: Annotated[int | None, Field(description="The status that the receiver answered with.")] = None


KIND = Kind(
    params=DeliverParams,
    result=DeliverResult,
    title="Deliver a webhook",
    description="Sends one signed webhook to its receiver, and again until it answers with 2xx or three days are over.",
    queue="webhooks",
    # The delivery's own time of three days ends the attempts; these are more than fit in it.
    max_attempts=200,
    timeout_seconds=60,
    retry=RetryPolicy(first_seconds=5.0, longest_seconds=4 * 3600.0),
    uses_files=False,
    public=False,
    errors={"webhook-not-delivered": "The receiver did not answer with 2xx, or could not be reached."},
)
