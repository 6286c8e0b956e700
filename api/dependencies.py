"""What a route asks for: who calls, and what the process holds open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict

from api.authentication import Caller
from api.error_responses import Problem
from api.services import Services, services_of
from api.submissions import Submissions


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
            request.headers.get("authorization"), request.headers.get("x-api-key")
        )
    except Problem:
        services.limits.count_refused(request.client.host if request.client else "")
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


ServicesDependency = Annotated[Services, Depends(get_services)]
SubmissionsDependency = Annotated[Submissions, Depends(get_submissions)]
TaskReaderCaller = Annotated[Caller, caller_with("tasks:read")]
TaskWriterCaller = Annotated[Caller, caller_with("tasks:write")]
FileReaderCaller = Annotated[Caller, caller_with("files:read")]
FileWriterCaller = Annotated[Caller, caller_with("files:write")]
UploaderCaller = Annotated[Caller, caller_with("tasks:write", "files:write")]

Scoped = Callable[..., Awaitable[Caller]]


class Query(BaseModel):
    """The query of a route: unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


class NoQuery(Query):
    """A query with nothing in it."""
