"""Deletes sessions, tokens and invitations that expired, and makes a new signing key when the one before is old."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Executable

from shared.audit.actions import AuditAction
from shared.audit.entries import PLATFORM, Entry, write_entry
from shared.contracts.maintenance.drop_expired_sign_ins import DropExpiredSignInsParams, DropExpiredSignInsResult
from shared.people.creation import rotate_signing_key
from shared.queries import identities as identity_queries
from shared.queries import people as people_queries
from shared.queries import sessions as session_queries
from workers.handler_context import HandlerContext

ROWS_TOGETHER: Final = 5000
SESSION_DAYS: Final = 7


def handle(params: DropExpiredSignInsParams, context: HandlerContext) -> DropExpiredSignInsResult:
    """Delete expired rows in rounds, each in a transaction of its own."""
    return DropExpiredSignInsResult(
        sessions=_repeat(context, lambda: session_queries.drop_old_sessions(ROWS_TOGETHER, SESSION_DAYS)),
        tokens=_repeat(context, lambda: people_queries.drop_old_person_tokens(ROWS_TOGETHER))
        + _repeat(context, lambda: identity_queries.drop_old_provider_requests(ROWS_TOGETHER)),
        invitations=_repeat(context, lambda: people_queries.drop_old_invitations(ROWS_TOGETHER)),
        attempts=_repeat(context, lambda: people_queries.drop_old_attempts(ROWS_TOGETHER)),
        has_new_signing_key=_renew_signing_key(context),
    )


def _renew_signing_key(context: HandlerContext) -> bool:
    with context.engine.begin() as connection:
        is_renewed = rotate_signing_key(connection, context.settings, only_if_due=True)
        if is_renewed:
            write_entry(connection, Entry(PLATFORM, AuditAction.SIGNING_KEY_ROTATED, None, None))
    return is_renewed


def _repeat(context: HandlerContext, statement: Callable[[], Executable]) -> int:
    total = 0
    while True:
        context.check()
        with context.engine.begin() as connection:
            dropped = connection.execute(statement()).rowcount
        total += dropped
        if dropped < ROWS_TOGETHER:
            return total
