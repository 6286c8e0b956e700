"""What a route asks for: who calls, and what the process holds open."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from api.auth.authentication import Caller
from api.http.body import is_json
from api.http.error_responses import Problem, invalid
from api.services import Services, services_of
from api.submitting.parsing import load_json, unknown_fields
from api.submitting.submissions import Submissions


def get_services(request: Request) -> Services:
    """Give what the process holds open."""
    return services_of(request.app)


def get_submissions(request: Request) -> Submissions:
    """Give the way to store tasks."""
    submissions: Submissions = request.app.state.submissions
    return submissions


def find_header(request: Request, name: str) -> str | None:
    """Give a header's value; the lines of one that is repeated count as one list (RFC 9110, section 5.3)."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


async def authenticate(request: Request) -> Caller:
    """Give the caller, and remember it for the limits. Raises `unauthorized`."""
    services = services_of(request.app)
    try:
        caller = await services.authenticator.caller(
            find_header(request, "authorization"), find_header(request, "x-api-key")
        )
    except Problem as problem:
        problem.headers |= services.limits.count_refused(request.client.host if request.client else "")
        raise
    request.state.caller = caller
    return caller


def caller_with(*scopes: str) -> Any:
    """Give the dependency for a caller with every one of the scopes."""

    async def require(caller: Annotated[Caller, Depends(authenticate)]) -> Caller:
        caller.require(*scopes)
        return caller

    require.__name__ = "caller_with_" + "_".join(scope.replace(":", "_") for scope in scopes)
    return Depends(require)


async def refuse_body(request: Request) -> None:
    """Refuse a body with anything in it: a field that nobody reads would silently change nothing."""
    body = (await request.body()).strip()
    if body in {b"", b"{}"}:
        return
    require_json(request)
    content = load_json(body)
    if not isinstance(content, dict):
        raise invalid("", "dict_type", "Input should be an object")
    if content:
        raise Problem("validation", errors=unknown_fields(content))


def require_json(request: Request) -> None:
    """Raise the problem `unsupported-media-type` unless the body is said to be JSON."""
    content_type = find_header(request, "content-type")
    if not is_json(content_type.encode("latin-1") if content_type is not None else None):
        raise Problem("unsupported-media-type", "The body must be application/json.")


NoBody = Annotated[None, Depends(refuse_body)]
ServicesDependency = Annotated[Services, Depends(get_services)]
SubmissionsDependency = Annotated[Submissions, Depends(get_submissions)]
TaskReaderCaller = Annotated[Caller, caller_with("tasks:read")]
TaskWriterCaller = Annotated[Caller, caller_with("tasks:write")]
FileReaderCaller = Annotated[Caller, caller_with("files:read")]
FileWriterCaller = Annotated[Caller, caller_with("files:write")]
UploaderCaller = Annotated[Caller, caller_with("tasks:write", "files:write")]


class Query(BaseModel):
    """The query of a route: unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


def _read_whole_number(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) < 10):
        raise PydanticCustomError("int_parsing", "Must be a whole number, in digits")
    return value


PageLimit = Annotated[int, BeforeValidator(_read_whole_number), Field(ge=1, le=200, description="How many at most.")]


class NoQuery(Query):
    """A query with nothing in it."""
