"""`/auth`: registering, signing in and out, passwords and second factors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.auth.auth_models import (
    Accepted,
    Challenge,
    ChallengeAnswer,
    CodeBody,
    EmailBody,
    PasswordBody,
    PasswordChange,
    PasswordReset,
    RecoveryCodes,
    RefreshBody,
    Registration,
    SecondFactor,
    TokenBody,
    Tokens,
    User,
)
from api.auth.clients import (
    delete_refresh_cookie,
    find_refresh_cookie,
    read_client,
    require_same_origin,
    set_refresh_cookie,
)
from api.auth.people_reader import read_user
from api.dependencies import (
    NoBody,
    PersonCaller,
    ReadsDependency,
    RegistrationsDependency,
    SessionsDependency,
    SettingsDependency,
    SignInDependency,
    SignInLimitsDependency,
    authenticate,
)
from api.http.answers import AnswerModel, private_answer
from api.http.body import json_body, optional_json_body, read_body
from api.http.headers import find_header
from api.http.json_text import parse_body
from api.http.problems import FieldError, Problem, invalid
from api.http.query_strings import NoQuery, StrictQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, json_body_of, problem_responses
from shared.audit.actions import AuditAction
from shared.permissions import SCOPES

MAX_FORM_BYTES: Final = 64 << 10
FORM_FIELDS: Final = ("grant_type", "username", "password", "scope", "organization", "client_id", "client_secret")
NO_STORE: Final = {"Cache-Control": "no-store"}
"""RFC 6749, section 5.1, requires it for answers with tokens."""
OPEN: Final = ("validation", "rate-limited", "unavailable", "unsupported-media-type")
"""The problems of routes that read a body and need no credentials."""
EMAIL_SENT: Final = "If this is possible for the address, an email is on its way. It contains a token."
_PASSWORD: Final = "correct horse battery staple of my own"
router = APIRouter(tags=["auth"])

_TOKEN_FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "title": "PasswordGrant",
                    "required": ["username", "password"],
                    "additionalProperties": False,
                    "properties": {
                        "grant_type": {"type": "string", "const": "password"},
                        "username": {"type": "string", "maxLength": 254, "description": "The email address."},
                        "password": {"type": "string", "format": "password", "maxLength": 200},
                        "scope": {
                            "type": "string",
                            "description": "The scopes that the tokens shall have, separated by spaces. By default, all that your "
                            "roles allow.",
                        },
                        "organization": {
                            "type": "string",
                            "description": "The id or the name of the organization for which the tokens are. By default, the one "
                            "that you have belonged to for the longest time.",
                        },
                        "client_id": {"type": "string", "description": "Ignored."},
                        "client_secret": {"type": "string", "description": "Ignored."},
                    },
                }
            }
        },
    }
}


class TokenQuery(StrictQuery):
    """How the tokens are answered."""

    cookie: Annotated[
        bool,
        Field(
            description="For browsers: put the refresh token in a cookie that no script can read, not in the answer."
        ),
    ] = False


@router.post(
    "/auth/register",
    status_code=201,
    summary="Register",
    responses={
        201: {"model": User, "description": "The person, who was invited and can sign in now."},
        202: {"model": Accepted, "description": "An email was sent, to show that the address is yours."},
        **problem_responses(*OPEN, "registration-closed", "conflict"),
    },
    openapi_extra=json_body_of("Registration", {"email": "ada@example.com", "password": _PASSWORD}),
)
async def register_person(
    request: Request,
    settings: SettingsDependency,
    registrations: RegistrationsDependency,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Create your account: with the token of an invitation, or, where the operator allows it, without one.

    Without an invitation, the answer is the same whether the address has an account or not, and an email says how to go on.
    """
    body = parse_body(Registration, await json_body(request, settings.max_json_bytes))
    person_id = await registrations.register(body, read_client(request))
    if person_id is None:
        return private_answer(Accepted(detail=EMAIL_SENT), 202, NO_STORE)
    return private_answer(await read_user(reads, person_id), 201, {"Location": "/users/me", **NO_STORE})


@router.post(
    "/auth/token",
    summary="Sign in with a password",
    responses={
        200: {"model": Tokens, "description": "The tokens of a new session."},
        202: {"model": Challenge, "description": "The password is right, and a second factor is needed."},
        **problem_responses(*OPEN, "invalid-credentials", "email-not-verified", "forbidden", "forged-request"),
    },
    openapi_extra=_TOKEN_FORM,
)
async def create_session(
    request: Request,
    settings: SettingsDependency,
    sign_in: SignInDependency,
    limits: SignInLimitsDependency,
    query: Annotated[TokenQuery, Query()],
) -> Response:
    """Exchange an email address and a password for tokens, by the form of OAuth 2.0 (RFC 6749, section 4.3).

    The access token is valid for 15 minutes and has the requested scopes that your roles allow. With a second factor, the answer is
    202 with a `challenge`, which `POST /auth/challenge` answers.
    """
    form = await _read_form(request)
    if query.cookie:
        require_same_origin(request)
    scopes = _read_scopes(form.get("scope", ""))
    client = read_client(request)
    if not await sign_in.is_known_address(form["username"], client):
        # Otherwise a stranger who tries without end would keep the owner out.
        await limits.count_account(form["username"].strip().lower())
    found = await sign_in.with_password(form["username"], form["password"], scopes, form.get("organization"), client)
    if isinstance(found, Challenge):
        return private_answer(found, 202, NO_STORE)
    return _answer_tokens(found, settings.session_days, in_cookie=query.cookie)


@router.post(
    "/auth/challenge",
    summary="Sign in with a second factor",
    response_model=Tokens,
    response_description="The tokens of a new session.",
    responses=problem_responses(*OPEN, "invalid-credentials", "forged-request"),
    openapi_extra=json_body_of("ChallengeAnswer", {"challenge": "tmc_…", "code": "123456"}),
)
async def answer_challenge(
    request: Request,
    settings: SettingsDependency,
    sign_in: SignInDependency,
    query: Annotated[TokenQuery, Query()],
) -> Response:
    """Answer the challenge of `POST /auth/token` with a code of the authenticator app, or with a recovery code."""
    body = parse_body(ChallengeAnswer, await json_body(request, settings.max_json_bytes))
    if query.cookie:
        require_same_origin(request)
    tokens = await sign_in.with_code(body.challenge, body.code, read_client(request))
    return _answer_tokens(tokens, settings.session_days, in_cookie=query.cookie)


@router.post(
    "/auth/refresh",
    summary="Exchange a refresh token for new tokens",
    response_model=Tokens,
    response_description="The new tokens.",
    responses=problem_responses(*OPEN, "unauthorized", "token-superseded", "forged-request"),
    openapi_extra=json_body_of("RefreshBody", {"refresh_token": "tmr_…"}),
)
async def refresh_tokens(
    request: Request,
    settings: SettingsDependency,
    sessions: SessionsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return new tokens for a refresh token, of the body or of the cookie. Each refresh token can be used once.

    Using one again ends its session, because it may have been stolen: store the new one before you use the access token, and
    refresh from one place at a time. Two requests at the same time do not end the session: one gets the tokens, the other the
    problem `token-superseded`.
    """
    arrived_at = time.monotonic()
    token, in_cookie = await _read_refresh_token(request, settings.max_json_bytes)
    if token is None:
        raise invalid("/refresh_token", "missing", "Field required")
    tokens = await sessions.refresh(token, time.monotonic() - arrived_at, read_client(request))
    return _answer_tokens(tokens, settings.session_days, in_cookie=in_cookie)


@router.post(
    "/auth/logout",
    status_code=204,
    summary="Sign out",
    response_description="The session has ended.",
    responses=problem_responses(*OPEN, "unauthorized", "forged-request"),
    openapi_extra=json_body_of("RefreshBody", {"refresh_token": "tmr_…"}),
)
async def end_session(
    request: Request,
    settings: SettingsDependency,
    sessions: SessionsDependency,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """End the session of a refresh token, of the body or of the cookie, or of the access token of the request.

    Its access tokens are refused within a second. A token of a session that has ended is answered in the same way.
    """
    token, _ = await _read_refresh_token(request, settings.max_json_bytes)
    client = read_client(request)
    if token is not None:
        async with reads.connect() as connection:
            found = await sessions.find_by_refresh_token(connection, token)
        if found is not None:
            await sessions.end(found.session_id, found.person_id, "signed_out", AuditAction.SIGNED_OUT, client)
    else:
        person_id, session_id = (await authenticate(request)).require_session()
        await sessions.end(session_id, person_id, "signed_out", AuditAction.SIGNED_OUT, client)
    response = Response(status_code=204, headers=NO_STORE)
    delete_refresh_cookie(response)
    return response


@router.post(
    "/auth/logout-everywhere",
    status_code=204,
    summary="Sign out everywhere",
    response_description="Every session of yours has ended, this one too.",
    responses=problem_responses(*ANY_CALLER, "sign-in-required", "unsupported-media-type"),
)
@limited("submit")
async def end_sessions(
    request: Request,
    caller: PersonCaller,
    sessions: SessionsDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """End every session of yours. Their access tokens are refused within a second."""
    person_id, _ = caller.require_session()
    async with sessions.transaction() as connection:
        await sessions.end_all(connection, person_id, "signed_out_everywhere", read_client(request))
    response = Response(status_code=204, headers=NO_STORE)
    delete_refresh_cookie(response)
    return response


@router.post(
    "/auth/change-password",
    status_code=204,
    summary="Change your password",
    response_description="The password was changed, and your other sessions have ended.",
    responses=problem_responses(*ANY_CALLER, "invalid-credentials", "sign-in-required", "unsupported-media-type"),
    openapi_extra=json_body_of("PasswordChange", {"current_password": "…", "new_password": _PASSWORD}),
)
@limited("submit")
async def change_password(
    request: Request,
    caller: PersonCaller,
    settings: SettingsDependency,
    sign_in: SignInDependency,
    registrations: RegistrationsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Choose a new password. Your other sessions end, and this one goes on."""
    person_id, session_id = caller.require_session()
    body = parse_body(PasswordChange, await json_body(request, settings.max_json_bytes))
    client = read_client(request)
    confirmed_hash = await sign_in.confirm_password(person_id, body.current_password, client)
    await registrations.change_password(person_id, session_id, confirmed_hash, body.new_password, client)
    return Response(status_code=204, headers=NO_STORE)


@router.post(
    "/auth/forgot-password",
    status_code=202,
    summary="Ask for a new password",
    response_model=Accepted,
    response_description="An email is on its way, if there is such an account.",
    responses=problem_responses(*OPEN),
    openapi_extra=json_body_of("EmailBody", {"email": "ada@example.com"}),
)
async def request_reset(
    request: Request,
    settings: SettingsDependency,
    registrations: RegistrationsDependency,
    limits: SignInLimitsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Send an email with a token for `POST /auth/reset-password`. The answer is the same for every address."""
    body = parse_body(EmailBody, await json_body(request, settings.max_json_bytes))
    # Counted apart from sign-ins, so that those of a stranger do not keep the owner from choosing a new password.
    await limits.count_account(f"reset {body.email.strip().lower()}")
    await registrations.request_email("reset", body.email, read_client(request))
    return private_answer(Accepted(detail=EMAIL_SENT), 202, NO_STORE)


@router.post(
    "/auth/reset-password",
    status_code=204,
    summary="Choose a new password",
    response_description="The password was changed, and every session has ended: sign in.",
    responses=problem_responses(*OPEN),
    openapi_extra=json_body_of("PasswordReset", {"token": "tmp_…", "password": _PASSWORD}),
)
async def reset_password(
    request: Request,
    settings: SettingsDependency,
    registrations: RegistrationsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Choose a new password with the token of the email, which can be used once, for an hour."""
    body = parse_body(PasswordReset, await json_body(request, settings.max_json_bytes))
    await registrations.reset_password(body.token, body.password, read_client(request))
    return Response(status_code=204, headers=NO_STORE)


@router.post(
    "/auth/verify-email",
    status_code=204,
    summary="Verify your email address",
    response_description="The address is verified: sign in.",
    responses=problem_responses(*OPEN),
    openapi_extra=json_body_of("TokenBody", {"token": "tmv_…"}),
)
async def verify_email(
    request: Request,
    settings: SettingsDependency,
    registrations: RegistrationsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Verify your email address with the token of the email that was sent to it. The token works once, for an hour."""
    body = parse_body(TokenBody, await json_body(request, settings.max_json_bytes))
    await registrations.verify_email(body.token, read_client(request))
    return Response(status_code=204, headers=NO_STORE)


@router.post(
    "/auth/resend-verification",
    status_code=202,
    summary="Ask for another email to verify your address",
    response_model=Accepted,
    response_description="An email is on its way, if there is such an account.",
    responses=problem_responses(*OPEN),
    openapi_extra=json_body_of("EmailBody", {"email": "ada@example.com"}),
)
async def resend_verification(
    request: Request,
    settings: SettingsDependency,
    registrations: RegistrationsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Send another email with a token for `POST /auth/verify-email`. The answer is the same for every address."""
    body = parse_body(EmailBody, await json_body(request, settings.max_json_bytes))
    await registrations.request_email("verify", body.email, read_client(request))
    return private_answer(Accepted(detail=EMAIL_SENT), 202, NO_STORE)


@router.post(
    "/auth/totp",
    summary="Set up a second factor",
    response_model=SecondFactor,
    response_description="The secret for the authenticator app.",
    responses=problem_responses(
        *ANY_CALLER, "invalid-credentials", "sign-in-required", "conflict", "unsupported-media-type"
    ),
    openapi_extra=json_body_of("PasswordBody", {"password": "…"}),
)
@limited("submit")
async def create_factor(
    request: Request,
    caller: PersonCaller,
    settings: SettingsDependency,
    sign_in: SignInDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return a new secret. It is asked for at sign-in only after `POST /auth/totp/confirm`."""
    person_id, _ = caller.require_session()
    body = parse_body(PasswordBody, await json_body(request, settings.max_json_bytes))
    await sign_in.confirm_password(person_id, body.password, read_client(request))
    return private_answer(await sign_in.start_second_factor(person_id), headers=NO_STORE)


@router.post(
    "/auth/totp/confirm",
    summary="Turn the second factor on",
    response_model=RecoveryCodes,
    response_description="The recovery codes, which are not shown again.",
    responses=problem_responses(*ANY_CALLER, "sign-in-required", "conflict", "unsupported-media-type"),
    openapi_extra=json_body_of("CodeBody", {"code": "123456"}),
)
@limited("submit")
async def confirm_factor(
    request: Request,
    caller: PersonCaller,
    settings: SettingsDependency,
    sign_in: SignInDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Turn the second factor on with a code of the app, and return recovery codes for the day on which the app is lost."""
    person_id, _ = caller.require_session()
    body = parse_body(CodeBody, await json_body(request, settings.max_json_bytes))
    codes = await sign_in.confirm_second_factor(person_id, body.code, read_client(request))
    return private_answer(codes, headers=NO_STORE)


@router.post(
    "/auth/totp/disable",
    status_code=204,
    summary="Turn the second factor off",
    response_description="The second factor and its recovery codes are deleted.",
    responses=problem_responses(
        *ANY_CALLER, "invalid-credentials", "sign-in-required", "conflict", "unsupported-media-type"
    ),
    openapi_extra=json_body_of("PasswordBody", {"password": "…"}),
)
@limited("submit")
async def disable_factor(
    request: Request,
    caller: PersonCaller,
    settings: SettingsDependency,
    sign_in: SignInDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Delete the second factor. The password is asked for again."""
    person_id, _ = caller.require_session()
    body = parse_body(PasswordBody, await json_body(request, settings.max_json_bytes))
    client = read_client(request)
    await sign_in.confirm_password(person_id, body.password, client)
    await sign_in.disable_second_factor(person_id, client)
    return Response(status_code=204, headers=NO_STORE)


async def _read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of the password form. Raises `validation` for unknown, repeated and missing ones."""
    content_type = (find_header(request, "content-type") or "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        raise Problem("unsupported-media-type", "The body must be application/x-www-form-urlencoded.")
    body = await read_body(request.scope, request.receive, MAX_FORM_BYTES)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise invalid("", "form_invalid", "The body is not a form in UTF-8") from None
    form = dict(pairs)
    errors = [
        FieldError(f"form:{name}", "extra_forbidden", "Unknown field") for name in form if name not in FORM_FIELDS
    ]
    errors += [FieldError(f"form:{name}", "missing", "Field required") for name in FORM_FIELDS[1:3] if name not in form]
    if len(form) < len(pairs):
        errors.append(FieldError("form:", "repeated", "A field must be given once"))
    if form.get("grant_type", "password") != "password":
        errors.append(FieldError("form:grant_type", "literal_error", "Must be `password`"))
    if errors:
        raise Problem("validation", errors=errors)
    return form


def _read_scopes(text: str) -> list[str]:
    scopes = text.split()
    for scope in scopes:
        if scope not in SCOPES:
            raise invalid("form:scope", "unknown_scope", f"The scopes are {', '.join(SCOPES)}")
    return scopes


async def _read_refresh_token(request: Request, limit_bytes: int) -> tuple[str | None, bool]:
    """Return the refresh token of the body, or of the cookie, and whether it was in the cookie."""
    body = parse_body(RefreshBody, await optional_json_body(request, limit_bytes))
    if body.refresh_token is not None:
        return body.refresh_token, False
    token = find_refresh_cookie(request)
    return token, token is not None


def _answer_tokens(tokens: Tokens, days: int, *, in_cookie: bool) -> Response:
    answer: AnswerModel = tokens
    if in_cookie:
        assert tokens.refresh_token is not None
        answer = Tokens(**tokens.model_dump(exclude={"refresh_token"}))
    response = private_answer(answer, headers=NO_STORE)
    if in_cookie and tokens.refresh_token is not None:
        set_refresh_cookie(response, tokens.refresh_token, days)
    return response
