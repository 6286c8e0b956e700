"""`/auth/oidc`: signing in with the provider of the operator, in a browser."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from api.auth.auth_models import Tokens
from api.auth.clients import read_client, set_refresh_cookie
from api.auth.provider_sign_in import REQUEST_SECONDS, Callback
from api.dependencies import ProviderSignInDependency, SettingsDependency
from api.http.answers import private_answer
from api.http.query_strings import StrictQuery
from api.openapi.operations import problem_responses
from shared.permissions import SCOPES

STATE_COOKIE: Final = "__Host-taskmill-sign-in"
"""`Lax`, because the browser sends it when the provider sends the browser back, which is a request of another site."""
NO_STORE: Final = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_PATH: Final = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]{0,1000}")
router = APIRouter(tags=["auth"])


class LoginQuery(StrictQuery):
    """What the sign-in is for."""

    scope: Annotated[
        str,
        Field(
            max_length=500,
            description="The scopes that the tokens shall have, separated by spaces. By default, all that your roles allow.",
        ),
    ] = ""
    organization: Annotated[
        str | None,
        Field(
            max_length=300,
            description="The id or the name of the organization for which the tokens are. By default, the one that you have "
            "belonged to for the longest time.",
        ),
    ] = None
    return_to: Annotated[
        str | None,
        Field(
            description="A path of this server, such as `/docs`, to which the browser is sent at the end. Then the refresh token "
            "is in a cookie that no script can read. Without it, the answer is the tokens."
        ),
    ] = None

    @field_validator("scope")
    @classmethod
    def _require_scopes(cls, value: str) -> str:
        if not set(value.split()) <= set(SCOPES):
            raise PydanticCustomError("unknown_scope", "The scopes are {scopes}", {"scopes": ", ".join(SCOPES)})
        return value

    @field_validator("organization")
    @classmethod
    def _require_text(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise PydanticCustomError("null_character", "Must not contain U+0000")
        return value

    @field_validator("return_to")
    @classmethod
    def _require_a_path(cls, value: str | None) -> str | None:
        if value is not None and _PATH.fullmatch(value) is None:
            raise PydanticCustomError("not_a_path", "Must be a path of this server, such as /docs")
        return value


class CallbackQuery(BaseModel):
    """What the provider sends the browser back with. Providers add parameters of their own, which are ignored."""

    model_config = ConfigDict(extra="ignore")

    code: Annotated[str | None, Field(description="What the tokens are fetched with.")] = None
    state: Annotated[str | None, Field(description="The `state` of the request.")] = None
    error: Annotated[str | None, Field(description="Why there is no code.")] = None
    iss: Annotated[str | None, Field(description="The issuer (RFC 9207).")] = None


@router.get(
    "/auth/oidc/login",
    status_code=303,
    response_class=RedirectResponse,
    summary="Sign in with the provider",
    responses={
        303: {"description": "The provider, where the browser goes on."},
        **problem_responses("validation", "rate-limited", "not-found", "unavailable", "provider-unavailable"),
    },
)
async def begin_sign_in(
    request: Request, provider: ProviderSignInDependency, query: Annotated[LoginQuery, Query()]
) -> Response:
    """Send the browser to the sign-in provider that the operator has set. It comes back to `/auth/oidc/callback`."""
    begun = await provider.begin(query.scope.split(), query.organization, query.return_to)
    response = Response(status_code=303, headers={**NO_STORE, "Location": begun.url})
    response.set_cookie(
        STATE_COOKIE, begun.secret, max_age=REQUEST_SECONDS, path="/", secure=True, httponly=True, samesite="lax"
    )
    return response


@router.get(
    "/auth/oidc/callback",
    summary="Come back from the provider",
    responses={
        200: {"model": Tokens, "description": "The tokens of a new session."},
        303: {"description": "The path `return_to`, with the refresh token in a cookie."},
        **problem_responses(
            "validation",
            "rate-limited",
            "not-found",
            "invalid-credentials",
            "forbidden",
            "email-not-verified",
            "registration-closed",
            "conflict",
            "unavailable",
            "provider-unavailable",
        ),
    },
)
async def complete_sign_in(
    request: Request,
    settings: SettingsDependency,
    provider: ProviderSignInDependency,
    query: Annotated[CallbackQuery, Query()],
) -> Response:
    """Complete a sign-in that began in this browser at `/auth/oidc/login`. A callback counts once."""
    callback = Callback(query.code, query.state, query.error, query.iss)
    done = await provider.complete(callback, request.cookies.get(STATE_COOKIE), read_client(request))
    if done.return_to is None:
        response = private_answer(done.tokens, headers=NO_STORE)
    else:
        assert done.tokens.refresh_token is not None
        response = Response(status_code=303, headers={**NO_STORE, "Location": done.return_to})
        set_refresh_cookie(response, done.tokens.refresh_token, settings.session_days)
    response.delete_cookie(STATE_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return response
