"""The two hot paths, `POST /tasks` and `GET /tasks/<id>`, as plain ASGI.

FastAPI's router and dependencies take longer than all other work of these two routes, so their requests bypass them.
Authentication, rate limits, validation and idempotency use the same code as the other routes.
`api/routes/tasks.py` declares the two routes for the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from starlette.types import Receive, Scope, Send

from api.auth.authentication import Authenticator
from api.auth.caller import Caller
from api.following.task_reader import TaskReader, TaskVersion
from api.following.task_representation import TaskRow, task_json
from api.following.waiters import Waiters
from api.http.answers import PRIVATE_HEADERS
from api.http.body import is_json, read_body
from api.http.client_network import find_client_network
from api.http.conditional import matches_etag
from api.http.error_responses import from_exception
from api.http.headers import RawHeaders, join_repeated_headers
from api.http.problems import Problem, invalid
from api.http.query_strings import read_validate_only, read_wait
from api.http.rate_limits import RateLimits
from api.limits.limit_reader import LimitReader
from api.queues.wait_estimates import WaitEstimates
from api.submitting.idempotency import fingerprint, read_idempotency_key
from api.submitting.parsing import parse_submission, read_traceparent
from api.submitting.submissions import SubmissionRequest, Submissions
from shared.permissions import Permission

UUID_LENGTH: Final = 36
_PRIVATE: Final[RawHeaders] = [(name.lower().encode(), value.encode()) for name, value in PRIVATE_HEADERS.items()]
_JSON: Final = (b"content-type", b"application/json")


class HotPaths:
    """Handles the requests of the two hot paths."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        limits: RateLimits,
        limit_reader: LimitReader,
        submissions: Submissions,
        reader: TaskReader,
        waiters: Waiters,
        wait_estimates: WaitEstimates,
        max_body_bytes: int,
    ) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._limit_reader = limit_reader
        self._submissions = submissions
        self._reader = reader
        self._waiters = waiters
        self._wait_estimates = wait_estimates
        self._max_body_bytes = max_body_bytes

    def serves(self, method: str, path: str) -> bool:
        """Return whether a request is for one of the two routes. That includes a path with an invalid id, which gets a 422."""
        if path.startswith("/tasks"):
            return (
                method == "POST"
                if len(path) == 6
                else method in {"GET", "HEAD"}
                and len(path) > 7
                and path[6] == "/"
                and "/" not in path[7:]
                and path != "/tasks/failures"
            )
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Every error is answered with a problem document."""
        limit_headers: RawHeaders = []
        try:
            status, headers, body = await self._answer(scope, receive, limit_headers)
        except Exception as error:
            problem = from_exception(error)
            status, body = problem.status, problem.body(scope["state"]["request_id"])
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in problem.response_headers().items()
            ]
            if problem.name != "rate-limited":
                headers += limit_headers
        if status != 304:
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, limit_headers: RawHeaders) -> tuple[int, RawHeaders, bytes]:
        given = join_repeated_headers(scope["headers"])
        authorization, api_key = given.get(b"authorization"), given.get(b"x-api-key")
        try:
            caller = await self._authenticator.caller(
                authorization.decode("latin-1") if authorization is not None else None,
                api_key.decode("latin-1") if api_key is not None else None,
                scope["client"][0] if scope.get("client") else None,
            )
        except Problem as problem:
            problem.headers |= self._limits.count_refused(find_client_network(scope))
            raise
        scope["state"]["caller"] = caller
        if self._limit_reader.find(caller.owner_id) is None:
            await self._limit_reader.read_known(caller.organization_id, caller.owner_id)
        if scope["method"] == "POST":
            limit_headers += self._limits.count("submit", caller.rate_key)
            caller.require(Permission.TASKS_SUBMIT)
            return await self._submit(scope, receive, given, caller, limit_headers)
        limit_headers += self._limits.count("read", caller.rate_key)
        caller.require(Permission.TASKS_READ)
        return await self._read(scope, receive, given, caller, limit_headers)

    async def _submit(
        self, scope: Scope, receive: Receive, given: Mapping[bytes, bytes], caller: Caller, limit_headers: RawHeaders
    ) -> tuple[int, RawHeaders, bytes]:
        if not is_json(given.get(b"content-type")):
            raise Problem("unsupported-media-type", "The body must be application/json.")
        validate_only = read_validate_only(scope["query_string"])
        key = given.get(b"idempotency-key")
        key_text = read_idempotency_key(key.decode("latin-1") if key is not None else None)
        body = await read_body(scope, receive, self._max_body_bytes)
        parsed = parse_submission(body, caller)
        if validate_only:
            await self._submissions.check_files([parsed], caller)
            return 200, [_JSON, *_PRIVATE, *limit_headers], b'{"valid":true}'
        request = SubmissionRequest(
            caller,
            scope["state"]["request_id"],
            key_text,
            fingerprint("POST", "/tasks", body) if key_text is not None else None,
            read_traceparent(_text(given.get(b"traceparent"))),
        )
        answer = await self._submissions.accept(parsed, request)
        headers = [_JSON, *_PRIVATE, *limit_headers]
        headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers().items()]
        return answer.status, headers, answer.body

    async def _read(
        self, scope: Scope, receive: Receive, given: Mapping[bytes, bytes], caller: Caller, limit_headers: RawHeaders
    ) -> tuple[int, RawHeaders, bytes]:
        task_id = _read_task_id(scope["path"][7:])
        wait, applied = read_wait(scope["query_string"], _text(given.get(b"prefer")))
        if_none_match = _text(given.get(b"if-none-match"))
        headers = [*_PRIVATE, *limit_headers]
        if applied:
            headers.append((b"preference-applied", b"wait=%d" % wait))
        row: TaskRow | None
        if wait:
            row = await self._waiters.wait(task_id, caller, wait, _settles(if_none_match), receive)
        elif if_none_match is not None:
            version = await self._reader.find_version(task_id, caller)
            if version is not None and matches_etag(if_none_match, version.etag):
                return self._not_modified(version, headers)
            row = await self._reader.find(task_id, caller)
        else:
            row = await self._reader.find(task_id, caller)
        if row is None:
            raise await self._reader.gone_or_missing(task_id, caller)
        if if_none_match is not None and matches_etag(if_none_match, row.etag):
            return self._not_modified(row, headers)
        headers += [_JSON, (b"etag", row.etag.encode())]
        if not row.done:
            headers.append(self._retry_after(row))
        return 200, headers, task_json(row)

    def _not_modified(self, task: TaskRow | TaskVersion, headers: RawHeaders) -> tuple[int, RawHeaders, bytes]:
        headers.append((b"etag", task.etag.encode()))
        if not task.done:
            headers.append(self._retry_after(task))
        return 304, headers, b""

    def _retry_after(self, task: TaskRow | TaskVersion) -> tuple[bytes, bytes]:
        return b"retry-after", b"%d" % self._wait_estimates.retry_after_seconds(task)


def _settles(if_none_match: str | None) -> Callable[[TaskRow], bool]:
    """Return the condition that ends a wait: the task is done, or, with `If-None-Match`, differs from the caller's version."""

    def is_settled(row: TaskRow) -> bool:
        return row.done or (if_none_match is not None and not matches_etag(if_none_match, row.etag))

    return is_settled


def _read_task_id(text: str) -> UUID:
    try:
        if len(text) == UUID_LENGTH:
            return UUID(text)
    except ValueError:
        pass
    raise invalid("path:task_id", "uuid_parsing", "Must be a UUID")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
