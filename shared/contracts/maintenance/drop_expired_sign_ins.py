"""`maintenance.drop_expired_sign_ins`: deletes sessions, tokens and invitations that expired, and renews the signing key."""

from __future__ import annotations

from shared.contracts.kind import Kind, Params, Result


class DropExpiredSignInsParams(Params):
    """It has no params."""


class DropExpiredSignInsResult(Result):
    """How many rows of each kind were deleted, and whether a new key signs access tokens."""

    sessions: int
    tokens: int
    invitations: int
    attempts: int
    has_new_signing_key: bool


KIND = Kind(
    params=DropExpiredSignInsParams,
    result=DropExpiredSignInsResult,
    title="Drop expired sign-ins",
    description="Deletes sessions 7 days after they ended, one-use tokens a day and invitations 30 days after they expired, counts "
    "of attempts to sign in after a day; and makes a new key that signs access tokens when the one before is old.",
    queue="maintenance",
    max_attempts=2,
    timeout_seconds=1800,
    uses_files=False,
    public=False,
)
