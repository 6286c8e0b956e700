"""Problem details (RFC 9457): the list of errors that a request can be answered with, and how one is written.

Problem         an answer that is not a success: a name from `PROBLEMS`, a detail, and the parts of the request at fault
FieldError      one part of a request that is at fault
PROBLEMS        each name with its status code, title and explanation; `GET /problems/<name>` serves them
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from api.http.answers import PRIVATE_HEADERS, AnswerModel

MAX_FIELD_ERRORS: Final = 100
"""The maximum number of field errors in one problem."""
MAX_VALIDATION_ERRORS: Final = 10_000
"""If validation finds more errors, they become one field error. A body of 1 MiB can cause hundreds of thousands."""


class ProblemType(NamedTuple):
    """The status code, title and explanation of a problem."""

    status: int
    title: str
    explanation: str


PROBLEMS: Final[dict[str, ProblemType]] = {
    "bad-request": ProblemType(400, "Bad request", "The server cannot read the request as HTTP. Check the client."),
    "unauthorized": ProblemType(
        401,
        "Unauthorized",
        "The request has no credentials, or they are wrong, expired or revoked. Send `Authorization: Bearer <key>`.",
    ),
    "invalid-credentials": ProblemType(
        401,
        "Invalid credentials",
        "The email address or the password is wrong. If you forgot the password, choose a new one by "
        "`POST /auth/forgot-password`.",
    ),
    "token-superseded": ProblemType(
        401,
        "Token superseded",
        "Another request has exchanged this refresh token at the same time. The session goes on: use the tokens of that answer. In "
        "a browser, the cookie has the new token: repeat the request.",
    ),
    "forbidden": ProblemType(
        403,
        "Forbidden",
        "The credentials are valid, but lack the required scope or role. Ask an admin for a key that has it.",
    ),
    "sign-in-required": ProblemType(
        403,
        "Sign-in required",
        "This concerns the account of a person, for which an API key does not do. Sign in by `POST /auth/token`, and send "
        "the access token.",
    ),
    "recent-sign-in-required": ProblemType(
        403, "Recent sign-in required", "This needs a session that began less than 15 minutes ago: sign in again."
    ),
    "email-not-verified": ProblemType(
        403,
        "Email address not verified",
        "Nobody has shown yet that the address is yours. Send the token of the email to `POST /auth/verify-email`; "
        "`POST /auth/resend-verification` sends another one.",
    ),
    "registration-closed": ProblemType(
        403,
        "Registration closed",
        "The operator of this server allows registration not at all, or with an invitation only.",
    ),
    "forged-request": ProblemType(
        403,
        "Request of another site",
        "A request with the cookie of a session must come from a page of this server: it needs `Sec-Fetch-Site: same-origin`, or "
        "an `Origin` that is this server's.",
    ),
    "not-found": ProblemType(404, "Not found", "There is no such resource, or it belongs to another organization."),
    "method-not-allowed": ProblemType(
        405, "Method not allowed", "The path exists, but not with this method. The header `Allow` lists its methods."
    ),
    "not-acceptable": ProblemType(
        406,
        "Not acceptable",
        "This route has no answer in a format that the header `Accept` names. Leave the header out for JSON.",
    ),
    "request-timeout": ProblemType(
        408, "Request timeout", "The request arrived too slowly. Send its header fields and its body without pauses."
    ),
    "conflict": ProblemType(409, "Conflict", "The state of the task or file does not allow this."),
    "task-done": ProblemType(409, "Task is done", "A task that is done cannot be cancelled."),
    "task-not-done": ProblemType(
        409,
        "Task is not done",
        "Only a task that is done can be deleted or rerun. Cancel it first, or wait until it is done.",
    ),
    "task-not-retriable": ProblemType(
        409, "Task cannot be retried", "Only a failed, cancelled or expired task can be retried."
    ),
    "workflow-done": ProblemType(
        409, "Workflow done", "The workflow is done, so it cannot be cancelled any more. A failed step can be retried."
    ),
    "workflow-not-done": ProblemType(
        409, "Workflow not done", "The workflow is not done. Cancel it, or wait until it is done, then delete it."
    ),
    "input-gone": ProblemType(
        409, "Input gone", "A file that the task reads was deleted. Upload it again, and submit a new task."
    ),
    "file-in-use": ProblemType(
        409, "File in use", "A task that is not done reads the file. Wait until that task is done, or cancel it."
    ),
    "idempotency-key-in-flight": ProblemType(
        409,
        "Request in flight",
        "Another request with this `Idempotency-Key` is still being processed. Repeat this one after `Retry-After` "
        "seconds.",
    ),
    "name-taken": ProblemType(409, "Name taken", "The organization has another resource of this name. Choose another."),
    "gone": ProblemType(410, "Gone", "The resource existed, and was purged or deleted."),
    "precondition-failed": ProblemType(
        412,
        "Changed meanwhile",
        "The resource has changed since the version in `If-Match`. Read it again, and repeat the change if it is still right.",
    ),
    "too-large": ProblemType(413, "Too large", "The body is larger than this route accepts."),
    "uri-too-long": ProblemType(414, "URI too long", "The path and query of the request are longer than 64 KiB."),
    "unsupported-media-type": ProblemType(
        415,
        "Unsupported media type",
        "This route cannot read a body or a file of this type, or a body with this `Content-Encoding`.",
    ),
    "range-not-satisfiable": ProblemType(
        416, "Range not satisfiable", "The file has no byte in the range that `Range` asks for."
    ),
    "validation": ProblemType(
        422, "Invalid request", "Parts of the request are invalid. `errors` lists each of them with its reason."
    ),
    "idempotency-key-reused": ProblemType(
        422,
        "Idempotency-Key reused",
        "This `Idempotency-Key` was used for a different request within 24 hours. Use a new key.",
    ),
    "precondition-required": ProblemType(
        428,
        "If-Match required",
        "This request needs the version that it is based on. Send the `ETag` of the resource in the header `If-Match`.",
    ),
    "rate-limited": ProblemType(
        429, "Too many requests", "The caller sent too many requests. Wait for `Retry-After` seconds."
    ),
    "queue-full": ProblemType(
        429,
        "Queue full",
        "Too many tasks are queued. Nothing was stored: submit again after `Retry-After` seconds.",
    ),
    "quota-tasks-per-day": ProblemType(
        429,
        "Quota of tasks in a day used up",
        "You or your organization may submit no more tasks today. The days are those of UTC: try again after `Retry-After` "
        "seconds.",
    ),
    "quota-live-tasks": ProblemType(
        429,
        "Quota of live tasks used up",
        "You or your organization have as many tasks that are not done as allowed. Submit again when some have ended.",
    ),
    "quota-emails-per-day": ProblemType(
        429,
        "Quota of emails in a day used up",
        "You or your organization may submit no more emails today. The days are those of UTC: try again after `Retry-After` "
        "seconds.",
    ),
    "quota-recipients-per-day": ProblemType(
        429,
        "Quota of recipients in a day used up",
        "The emails of today would have more recipients than you or your organization may have. The days are those of UTC: try "
        "again after `Retry-After` seconds.",
    ),
    "quota-stored-bytes": ProblemType(
        413,
        "Quota of stored bytes used up",
        "The files of you or your organization have as many bytes as allowed. Delete files, or wait until some are purged.",
    ),
    "quota-upload-bytes": ProblemType(
        413,
        "Upload larger than the quota",
        "The upload is larger than one of you or your organization may be. Send a smaller file, or ask an admin for more.",
    ),
    "quota-retention-seconds": ProblemType(
        422,
        "Retention longer than the quota",
        "`keep_for` is longer than you or your organization may keep tasks and files. Leave it out for the longest time allowed.",
    ),
    "quota-senders": ProblemType(
        403,
        "Sender not allowed",
        "You or your organization may not send emails `from` this address. Use an allowed one, or leave `from` out for the "
        "sender of the platform.",
    ),
    "headers-too-large": ProblemType(
        431,
        "Header fields too large",
        "The request has more than 100 header fields, or more than 64 KiB of them. Send fewer or shorter ones.",
    ),
    "internal-error": ProblemType(
        500,
        "Internal error",
        "The server failed because of a bug. The operator can find the cause in the log by the id of the request. "
        "Repeating the request is safe with an `Idempotency-Key`.",
    ),
    "not-implemented": ProblemType(
        501,
        "Not implemented",
        "The body has a `Transfer-Encoding` other than `chunked`, which the server cannot decode. Send it without compression.",
    ),
    "unavailable": ProblemType(
        503,
        "Unavailable",
        "The database or the storage does not answer. Nothing was stored: try again after `Retry-After` seconds.",
    ),
    "provider-unavailable": ProblemType(
        503,
        "Sign-in provider unavailable",
        "The provider with which you sign in does not answer, or not as OpenID Connect says. Try again after `Retry-After` "
        "seconds, or sign in with a password. The log of the server says what is wrong.",
    ),
    "storage-full": ProblemType(
        507,
        "Storage full",
        "For an upload: the storage has no space left, and nothing was stored. For a task: the disk of the worker is full, "
        "or the task needed more disk space than one task may use; it is retried while attempts are left.",
    ),
}


@dataclass(frozen=True)
class FieldError:
    """One part of a request that is invalid."""

    pointer: Annotated[
        str,
        Field(
            description="Where it is: a JSON Pointer (RFC 6901) into the body, or `query:NAME`, `path:NAME`, "
            "`header:NAME`, or `form:NAME`."
        ),
    ]
    code: Annotated[str, Field(description="What is wrong, for programs.")]
    message: Annotated[str, Field(description="What is wrong, for people.")]


class ProblemDocument(AnswerModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: Annotated[
        str,
        Field(
            pattern="^/problems/[a-z-]+$",
            json_schema_extra={"format": "uri-reference"},
            description="A stable URI reference for programs. `GET` explains the error.",
        ),
    ]
    title: Annotated[str, Field(description="What kind of error it is, for people.")]
    status: Annotated[int, Field(ge=400, le=599, description="The HTTP status code.")]
    detail: Annotated[str, Field(description="What is wrong with this request, for people.")]
    instance: Annotated[str, Field(pattern="^urn:uuid:", description="The id of the request, as in `X-Request-ID`.")]
    errors: Annotated[
        list[FieldError] | None,
        Field(min_length=1, max_length=MAX_FIELD_ERRORS, description="The invalid parts of the request, if it is 422."),
    ] = None


class Problem(Exception):
    """An answer that is not a success. Raised anywhere in the API; `api/http/error_responses.py` sends it."""

    def __init__(
        self,
        name: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return PROBLEMS[self.name].status

    def response_headers(self) -> dict[str, str]:
        """Return every header of the answer. Caches must not share it: another caller may be answered differently."""
        headers = {"Content-Type": "application/problem+json", **PRIVATE_HEADERS, **self.headers}
        if self.status == 401:
            headers.setdefault("WWW-Authenticate", "Bearer")
        return headers

    def body(self, request_id: str) -> bytes:
        """Return the problem document as JSON."""
        problem_type = PROBLEMS[self.name]
        document = ProblemDocument(
            type=f"/problems/{self.name}",
            title=problem_type.title,
            status=problem_type.status,
            detail=self.detail or problem_type.explanation,
            instance=f"urn:uuid:{request_id}",
            errors=list(self.errors[:MAX_FIELD_ERRORS]) or None,
        )
        return document.model_dump_json(exclude_none=True).encode()


def invalid(pointer: str, code: str, message: str) -> Problem:
    """Return the problem `validation` with one field error."""
    return Problem("validation", errors=[FieldError(pointer, code, message)])


def nul_character(pointer: str) -> Problem:
    """Return the problem for a text with U+0000, which Postgres cannot store."""
    return invalid(pointer, "nul_character", "A text must not contain the character U+0000.")


def invalid_body(error: ValidationError, prefix: str = "") -> Problem:
    """Return the problem for a body that does not fit its model; `prefix` is the pointer to what was validated."""
    return Problem("validation", errors=body_errors(error, prefix))


def body_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    """Return pydantic's errors as field errors with JSON Pointers; as one field error beyond `MAX_VALIDATION_ERRORS`."""
    if error.error_count() > MAX_VALIDATION_ERRORS:
        message = f"More than {MAX_VALIDATION_ERRORS:,} fields are invalid: check that this is the intended document"
        return [FieldError(prefix, "too_many_errors", message)]
    found = []
    for item in error.errors(include_url=False, include_input=False):
        pointer = item.get("ctx", {}).get("pointer") if item["type"] != "json_invalid" else ""
        if pointer is None:
            pointer = json_pointer(item["loc"])
        elif item["loc"] and item["type"] != "json_invalid":
            pointer = json_pointer(item["loc"]) + pointer
        code = "list_type" if item["type"] == "tuple_type" else item["type"]
        found.append(FieldError(prefix + pointer, code, _in_json_terms(item["msg"])))
    # Pydantic counts the valid items of a list only, so a list with invalid items may seem too short. That error is left out.
    return [
        one
        for one in found
        if one.code != "too_short" or not any(other.pointer.startswith(one.pointer + "/") for other in found)
    ]


_COUNTED: Final = re.compile(
    r"(?:List|Tuple|Set|Frozenset|Dictionary) should have at (least|most) (\d+ items?) after validation, not (more|\d+)"
)


def _in_json_terms(message: str) -> str:
    """Return pydantic's message about a Python collection as one about a JSON array or object."""
    return _COUNTED.sub(lambda match: f"Must have at {match[1]} {match[2]}, not {match[3]}", message)


def json_pointer(path: Iterable[str | int]) -> str:
    """Return a path as a JSON Pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
