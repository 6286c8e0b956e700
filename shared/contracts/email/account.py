"""The contract of `email.account`: a message to a person about their account. Only the platform submits it.

The params name the message and whom it is for. A link or code that the message contains is made by the attempt that sends it: only
its digest is stored, and no task contains it.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from shared.contracts.kind import Kind, Params, Result


class AccountParams(Params):
    """Which message, and to whom."""

    message: Annotated[
        Literal["reset", "verify", "invitation", "password_changed"],
        Field(
            description="`reset`: a token to choose a new password. `verify`: a token that shows that the address is the person's. "
            "`invitation`: a token to join an organization. `password_changed`: that the password was changed."
        ),
    ]
    email_key: Annotated[
        str | None, Field(max_length=320, description="The address of the person. Nothing is sent if there is none.")
    ] = None
    invitation_id: Annotated[UUID | None, Field(description="The invitation.")] = None


class AccountResult(Result):
    """Whether a message was sent."""

    sent: bool


KIND = Kind(
    params=AccountParams,
    result=AccountResult,
    title="Send a message about an account",
    description="Sends a person a token for a new password, to verify an address, or to accept an invitation.",
    queue="email",
    max_attempts=8,
    timeout_seconds=120,
    uses_files=False,
    public=False,
    deliveries="email",
)
