"""Tokens that open the stream of one task, for browsers: their `EventSource` and `WebSocket` send no header.

A token stands in the query of the stream's address. It is signed, names the task and the key that asked for it, and holds for
`TOKEN_SECONDS`; it opens nothing else. Revoking the key revokes its tokens. No log contains a query.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field

from api.http.answers import AnswerModel, Moment
from api.http.problems import Problem
from api.http.signed_values import read_signed, sign
from shared.settings import Settings

TOKEN_SECONDS: Final = 300
_PURPOSE: Final = "stream"
_SECONDS_BYTES: Final = 8
_ID_BYTES: Final = 16


class StreamToken(AnswerModel):
    """A token that opens the stream of one task."""

    token: Annotated[str, Field(description="The value of the query parameter `token`.")]
    expires_at: Annotated[Moment, Field(description="Until when a stream can be opened with it: for five minutes.")]


def make_token(settings: Settings, task_id: UUID, key_prefix: str) -> StreamToken:
    """Return a token for the stream of a task, on behalf of the key with a prefix."""
    expires_at = int(time.time()) + TOKEN_SECONDS
    content = expires_at.to_bytes(_SECONDS_BYTES) + task_id.bytes + key_prefix.encode()
    return StreamToken(token=sign(settings, _PURPOSE, content), expires_at=datetime.fromtimestamp(expires_at, UTC))


def read_token_key(settings: Settings, token: str, task_id: UUID, *, is_open: bool) -> str:
    """Return the prefix of the key on whose behalf a token was made.

    Raises the problem `unauthorized` unless the token is for the stream of this task and has not expired. If the stream `is_open`
    already, the token may have expired since.
    """
    content = read_signed(settings, _PURPOSE, token)
    if content is not None:
        expires_at = int.from_bytes(content[:_SECONDS_BYTES])
        id_bytes = content[_SECONDS_BYTES : _SECONDS_BYTES + _ID_BYTES]
        if id_bytes == task_id.bytes and (is_open or time.time() < expires_at):
            return content[_SECONDS_BYTES + _ID_BYTES :].decode()
    raise Problem(
        "unauthorized",
        "The stream token is wrong, has expired, or belongs to another task: ask for another one by "
        "`POST /tasks/<id>/stream-token`.",
    )
