"""Logs requests: the caller, the client's address, the path and the status, but never the content of requests.

A caller is logged by its id and the prefix of its key, and a client by its address, so that an operator can find out who
sent a request and whether somebody guesses keys.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.types import Scope

from api.auth.authentication import read_token
from api.auth.caller import Caller
from api.http.headers import RawHeaders, join_repeated_headers
from shared.api_keys import key_prefix
from shared.settings import Settings

READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Requests with these methods are logged only at the level `debug`, unless the server failed or access was refused."""
REFUSED_STATUSES: Final = frozenset({401, 403})
MAX_PATH_CHARACTERS: Final = 200
log = structlog.get_logger()


class RequestLog:
    """Logs answers according to the configured level."""

    def __init__(self, settings: Settings) -> None:
        self._logs_changes = settings.log_level in {"debug", "info"}
        self._logs_reads = settings.log_level == "debug"

    def write(self, scope: Scope, status: int, headers: RawHeaders, seconds: float) -> None:
        """Log one answer: `access_refused` for refused credentials and missing rights, `request` for all others."""
        is_refused = status in REFUSED_STATUSES
        is_logged = self._logs_changes and (self._logs_reads or scope["method"] not in READING_METHODS or status >= 500)
        if not is_refused and not is_logged:
            return
        client = scope.get("client")
        fields: dict[str, object] = {
            "request_id": scope["state"]["request_id"],
            "method": "HEAD" if scope["state"].get("is_head") else scope["method"],
            "path": scope["path"][:MAX_PATH_CHARACTERS],
            "status": status,
            "client": client[0] if client else None,
        }
        caller: Caller | None = scope["state"].get("caller")
        if caller is not None:
            fields |= {"caller": str(caller.owner_id), "key": caller.key_prefix}
        if is_refused:
            log.warning("access_refused", **({"key": _presented_prefix(scope["headers"])} | fields))
            return
        location = next((value for name, value in headers if name == b"location"), b"")
        if location.startswith(b"/tasks/"):
            fields["task_id"] = location.removeprefix(b"/tasks/").decode()
        log.info("request", **fields, ms=round(seconds * 1000, 1))


def _presented_prefix(headers: RawHeaders) -> str | None:
    """Return the prefix of the key that a request presents, or None if it presents nothing of a key's form."""
    joined = join_repeated_headers(headers)
    authorization, api_key = joined.get(b"authorization"), joined.get(b"x-api-key")
    token = read_token(
        authorization.decode("latin-1") if authorization is not None else None,
        api_key.decode("latin-1") if api_key is not None else None,
    )
    prefix = key_prefix(token) if token else None
    return prefix if prefix is not None and prefix.isprintable() and prefix.isascii() else None
