"""What a route asks for: who calls, and what the process holds open."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from api.auth.authentication import Caller
from api.http.body import read_body, require_json
from api.http.headers import find_header
from api.http.json_text import load_json
from api.http.problems import Problem, invalid
from api.services import Services, services_of
from api.submitting.parsing import unknown_fields
from api.submitting.submissions import Submissions


def get_services(request: Request) -> Services:
    """Give what the process holds open."""
    return services_of(request.app)


def get_submissions(request: Request) -> Submissions:
    """Give the way to store tasks."""
    submissions: Submissions = request.app.state.submissions
    return submissions


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
    limit_bytes = services_of(request.app).settings.max_json_bytes
    body = (await read_body(request.scope, request.receive, limit_bytes)).strip()
    if body in {b"", b"{}"}:
        return
    require_json(request)
    content = load_json(body)
    if not isinstance(content, dict):
        raise invalid("", "dict_type", "Input should be an object")
    if content:
        raise Problem("validation", errors=unknown_fields(content))


NoBody = Annotated[None, Depends(refuse_body)]
ServicesDependency = Annotated[Services, Depends(get_services)]
SubmissionsDependency = Annotated[Submissions, Depends(get_submissions)]
TaskReaderCaller = Annotated[Caller, caller_with("tasks:read")]
TaskWriterCaller = Annotated[Caller, caller_with("tasks:write")]
FileReaderCaller = Annotated[Caller, caller_with("files:read")]
FileWriterCaller = Annotated[Caller, caller_with("files:write")]
UploaderCaller = Annotated[Caller, caller_with("tasks:write", "files:write")]
