"""The two hot paths, `POST /tasks` and `GET /tasks/<id>`, as plain ASGI.

The router and its dependencies cost more than all that these two do, so requests to them never reach it. They share
every check with the other routes: authentication, limits, validation, idempotency. `api/routes/tasks.py` declares them
to the schema, and answers through here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from starlette.types import Receive, Scope, Send

from api.auth.authentication import Caller
from api.following.task_representation import TaskRow, task_json
from api.following.waiters import Waiter
from api.http.answers import PRIVATE_HEADERS
from api.http.body import is_json, read_body
from api.http.conditional import matches_etag
from api.http.error_responses import from_exception
from api.http.headers import RawHeaders, join_repeated_headers
from api.http.problems import Problem, invalid
from api.http.query_strings import read_validate_only, read_wait
from api.services import Services
from api.submitting.parsing import fingerprint, parse_submission, read_idempotency_key, read_traceparent
from api.submitting.submissions import Request, Submissions
from shared.queries.tasks import find_tombstone
from shared.tasks.states import DONE_VALUES

UUID_LENGTH: Final = 36
_PRIVATE: Final[RawHeaders] = [(name.lower().encode(), value.encode()) for name, value in PRIVATE_HEADERS.items()]
_JSON: Final = (b"content-type", b"application/json")
_RETRY_AFTER: Final = (b"retry-after", b"1")


class HotPaths:
    """Answers the two hot paths."""

    def __init__(self, services: Services, submissions: Submissions) -> None:
        self._services = services
        self._submissions = submissions

    def serves(self, method: str, path: str) -> bool:
        """Whether a request is for one of the two: an id that is none is refused here too, once its caller is counted."""
        if path.startswith("/tasks"):
            return (
                method == "POST"
                if len(path) == 6
                else method in {"GET", "HEAD"} and len(path) > 7 and path[6] == "/" and "/" not in path[7:]
            )
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes a problem document."""
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
        services = self._services
        try:
            caller = await services.authenticator.caller(
                authorization.decode("latin-1") if authorization is not None else None,
                api_key.decode("latin-1") if api_key is not None else None,
            )
        except Problem as problem:
            problem.headers |= services.limits.count_refused(scope["client"][0] if scope.get("client") else "")
            raise
        if scope["method"] == "POST":
            limit_headers += services.limits.count("submit", caller.rate_key)
            caller.require("tasks:write")
            return await self._submit(scope, receive, given, caller, limit_headers)
        limit_headers += services.limits.count("read", caller.rate_key)
        caller.require("tasks:read")
        return await self._read(scope, given, caller, limit_headers)

    async def _submit(
        self, scope: Scope, receive: Receive, given: Mapping[bytes, bytes], caller: Caller, limit_headers: RawHeaders
    ) -> tuple[int, RawHeaders, bytes]:
        if not is_json(given.get(b"content-type")):
            raise Problem("unsupported-media-type", "The body must be application/json.")
        validate_only = read_validate_only(scope["query_string"])
        key = given.get(b"idempotency-key")
        key_text = read_idempotency_key(key.decode("latin-1") if key is not None else None)
        body = await read_body(scope, receive, self._services.settings.max_json_bytes)
        parsed = parse_submission(body, caller)
        if validate_only:
            await self._submissions.check_files([parsed], caller)
            return 200, [_JSON, *_PRIVATE, *limit_headers], b'{"valid":true}'
        request = Request(
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
        self, scope: Scope, given: Mapping[bytes, bytes], caller: Caller, limit_headers: RawHeaders
    ) -> tuple[int, RawHeaders, bytes]:
        task_id = _read_task_id(scope["path"][7:])
        wait, applied = read_wait(scope["query_string"], _text(given.get(b"prefer")))
        if_none_match = _text(given.get(b"if-none-match"))
        headers = [*_PRIVATE, *limit_headers]
        if applied:
            headers.append((b"preference-applied", b"wait=%d" % wait))
        reader = self._services.reader
        row: TaskRow | None
        if wait:
            waiter = Waiter()
            on_lost: list[Callable[[], None]] = scope["state"].get("on_lost", [])
            on_lost.append(waiter.hang_up)
            try:
                row = await self._services.waiters.wait(waiter, task_id, wait, _settles(caller, if_none_match))
            finally:
                on_lost.remove(waiter.hang_up)
        elif if_none_match is not None:
            version = await reader.find_version(task_id)
            unchanged = (
                version is not None and caller.sees(version[3]) and matches_etag(if_none_match, f'"{version[1]}"')
            )
            if version is not None and unchanged:
                return _not_modified(f'"{version[1]}"', version[2] in DONE_VALUES, headers)
            row = await reader.find(task_id)
        else:
            row = await reader.find(task_id)
        if row is None or not caller.sees(row.organization_id):
            raise await gone_or_missing(self._services, task_id, caller)
        if if_none_match is not None and matches_etag(if_none_match, row.etag):
            return _not_modified(row.etag, row.done, headers)
        headers += [_JSON, (b"etag", row.etag.encode())]
        if not row.done:
            headers.append(_RETRY_AFTER)
        return 200, headers, task_json(row)


async def gone_or_missing(services: Services, task_id: UUID, caller: Caller) -> Problem:
    """Give the problem for a task that is not there for the caller: it was, or it never was, or it is another's."""
    async with services.reads.connect() as connection:
        organization_id = (await connection.execute(find_tombstone(task_id))).scalars().first()
    return Problem("gone" if organization_id is not None and caller.sees(organization_id) else "not-found")


def _settles(caller: Caller, if_none_match: str | None) -> Callable[[TaskRow], bool]:
    """Give what ends a wait: the task is done, or differs from what was seen, or is not the caller's to wait for."""

    def is_settled(row: TaskRow) -> bool:
        changed = if_none_match is not None and not matches_etag(if_none_match, row.etag)
        return row.done or changed or not caller.sees(row.organization_id)

    return is_settled


def _not_modified(etag: str, done: bool, headers: RawHeaders) -> tuple[int, RawHeaders, bytes]:
    headers.append((b"etag", etag.encode()))
    if not done:
        headers.append(_RETRY_AFTER)
    return 304, headers, b""


def _read_task_id(text: str) -> UUID:
    try:
        if len(text) == UUID_LENGTH:
            return UUID(text)
    except ValueError:
        pass
    raise invalid("path:task_id", "uuid_parsing", "Must be a UUID")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
