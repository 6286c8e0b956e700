"""Requests that wait until all tasks of a batch or of a workflow are done, as `wait` or `Prefer: wait=N` asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from fastapi import Request

from api.auth.caller import Caller
from api.following.waiters import Waiters
from api.http.headers import find_header
from api.http.query_strings import read_wait


async def wait_for_all(
    request: Request, waiters: Waiters, caller: Caller, find_live: Callable[[], Awaitable[UUID | None]], *, done: bool
) -> tuple[bool, dict[str, str]]:
    """Wait as long as the request asks, unless it is done, until `find_live` returns no task.

    Returns whether it waited, so that the subject must be read again, and headers of the answer. Raises the problem
    `validation`, and `ClientDisconnect` as soon as the client disconnects.
    """
    seconds, is_preference = read_wait(request.scope["query_string"], find_header(request, "prefer"))
    headers = {"Preference-Applied": f"wait={seconds}"} if is_preference else {}
    if not seconds or done:
        return False, headers
    await waiters.wait_for_all(find_live, caller, seconds, request.receive)
    return True, headers
