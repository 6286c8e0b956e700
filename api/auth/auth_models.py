"""Pydantic models of signing in, people and invitations: the bodies of requests, and the answers."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from api.http.answers import AnswerModel, Moment
from shared.people.email_addresses import SignInAddress, UnusableAddress, parse_sign_in_address
from shared.permissions import OrganizationRole, PlatformRole

MAX_PASSWORD_TEXT: Final = 2000
"""Passwords have at most 200 characters, which is checked apart, with a message of its own. This bounds what is looked at."""


class Body(BaseModel):
    """The base of the bodies: unknown fields are refused, and values are not quoted in errors."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def _check_address(value: str) -> str:
    try:
        return parse_sign_in_address(value).address
    except UnusableAddress as error:
        raise PydanticCustomError("email_address", "{reason}", {"reason": str(error)}) from None


def _check_name(value: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs", "Cn", "Co"} for character in value) or not value.strip():
        raise PydanticCustomError("name", "A name must not be blank, nor contain control characters.")
    return unicodedata.normalize("NFC", value.strip())


Email = Annotated[
    str,
    Field(max_length=1000, examples=["ada@example.com"], description="The email address, which is the sign-in name."),
    AfterValidator(_check_address),
]
Name = Annotated[
    str, Field(min_length=1, max_length=200, description="The name of the person."), AfterValidator(_check_name)
]
NewPassword = Annotated[
    str,
    Field(
        max_length=MAX_PASSWORD_TEXT,
        description="12 to 200 characters, and none of the passwords that are guessed first.",
    ),
]
CurrentPassword = Annotated[str, Field(max_length=MAX_PASSWORD_TEXT, description="Your present password.")]
Token = Annotated[str, Field(max_length=200, description="The token of the email.")]
Code = Annotated[str, Field(max_length=100, description="The six digits of the authenticator app, or a recovery code.")]


def address_of(email: str) -> SignInAddress:
    """Return the address of a validated field."""
    return parse_sign_in_address(email)


class Registration(Body):
    """The account that is to be created."""

    email: Email
    password: NewPassword
    name: Name | None = None
    invitation: Annotated[str | None, Field(max_length=200, description="The token of an invitation.")] = None


class EmailBody(Body):
    """An address."""

    email: Email


class TokenBody(Body):
    """A token of an email."""

    token: Token


class PasswordReset(Body):
    """A new password, and the token of the email."""

    token: Token
    password: NewPassword


class PasswordChange(Body):
    """The present password, and a new one."""

    current_password: CurrentPassword
    new_password: NewPassword


class RefreshBody(Body):
    """A refresh token; empty if it is in the cookie."""

    refresh_token: Annotated[str | None, Field(max_length=200, description="The refresh token.")] = None


class ChallengeAnswer(Body):
    """A challenge of `POST /auth/token`, and a code."""

    challenge: Annotated[str, Field(max_length=200, description="The `challenge` of the answer to the password.")]
    code: Code


class CodeBody(Body):
    """A code."""

    code: Code


class PasswordBody(Body):
    """The present password."""

    password: CurrentPassword


class PersonChange(Body):
    """The fields of oneself that change."""

    name: Name | None


class NewInvitation(Body):
    """Whom to invite, to which organization, with which role."""

    email: Email
    role: Annotated[OrganizationRole, Field(description="The role in the organization.")] = "client"
    organization_id: Annotated[
        str | None,
        Field(max_length=36, description="The id of the organization. By default, that of your token or key."),
    ] = None


class InvitationToken(Body):
    """The token of an invitation."""

    invitation: Token


class UserChange(Body):
    """What an admin of the platform changes of a person."""

    disabled: Annotated[bool | None, Field(description="Whether the person is kept out.")] = None
    platform_role: Annotated[PlatformRole | None, Field(description="The role on the platform, or null for none.")] = (
        None
    )


BODIES: Final[tuple[type[Body], ...]] = (
    Registration,
    EmailBody,
    TokenBody,
    PasswordReset,
    PasswordChange,
    RefreshBody,
    ChallengeAnswer,
    CodeBody,
    PasswordBody,
    PersonChange,
    NewInvitation,
    InvitationToken,
    UserChange,
)


def auth_components() -> dict[str, dict[str, Any]]:
    """Return the schemas of the bodies, by component."""
    return {model.__name__: model.model_json_schema() for model in BODIES}


class Tokens(AnswerModel):
    """The tokens of a session (RFC 6749, section 5.1)."""

    access_token: Annotated[str, Field(description="Send it as `Authorization: Bearer …`.")]
    token_type: Literal["bearer"] = "bearer"
    expires_in: Annotated[int, Field(description="For how many seconds the access token is valid.")]
    scope: Annotated[str, Field(description="The scopes that were granted, separated by spaces.")]
    refresh_token: Annotated[
        str | None,
        Field(description="Exchange it for new tokens by `POST /auth/refresh`, once. Absent if it is in the cookie."),
    ] = None


class Challenge(AnswerModel):
    """The password is right, and a second factor is needed."""

    challenge: Annotated[str, Field(description="Send it with a code to `POST /auth/challenge`.")]
    expires_in: Annotated[int, Field(description="For how many seconds it can be answered.")]
    methods: Annotated[list[Literal["totp", "recovery_code"]], Field(description="Which codes answer it.")]


class Accepted(AnswerModel):
    """The request was accepted. The answer is the same whether there is such an account or not."""

    detail: str


class Membership(AnswerModel):
    """An organization that a person belongs to, and the role there."""

    organization_id: UUID
    organization: str
    role: OrganizationRole


class User(AnswerModel):
    """A person."""

    id: UUID
    email: str
    name: str | None
    platform_role: PlatformRole | None
    email_verified: bool
    has_password: bool
    has_second_factor: bool
    disabled: bool
    created_at: Moment
    last_seen_at: Annotated[Moment | None, Field(description="When a session was last used, right to some minutes.")]
    memberships: list[Membership]


class UserPage(AnswerModel):
    """A page of people."""

    items: list[User]
    next_cursor: str | None


class Session(AnswerModel):
    """A session of a person."""

    id: UUID
    current: Annotated[bool, Field(description="Whether this request belongs to it.")]
    organization_id: UUID
    method: Annotated[Literal["password", "totp", "recovery_code", "oidc"], Field(description="How it began.")]
    address: Annotated[str | None, Field(description="The network address from which it was last used.")]
    agent: Annotated[str | None, Field(description="The `User-Agent` of its client.")]
    created_at: Moment
    last_used_at: Annotated[Moment, Field(description="Right to the minute.")]
    expires_at: Moment


class SessionPage(AnswerModel):
    """A page of sessions."""

    items: list[Session]
    next_cursor: str | None


class SecondFactor(AnswerModel):
    """A second factor that is not confirmed yet."""

    secret: Annotated[str, Field(description="The secret for the authenticator app, in Base32.")]
    uri: Annotated[str, Field(description="The same as the `otpauth://` URI of a QR code.")]


class RecoveryCodes(AnswerModel):
    """Codes that replace those of the app, each once. They are not shown again."""

    recovery_codes: list[str]


class Invitation(AnswerModel):
    """An invitation that was not accepted yet. Its token is in the email only."""

    id: UUID
    email: str
    organization_id: UUID
    organization: str
    role: OrganizationRole
    created_at: Moment
    expires_at: Moment


class InvitationPage(AnswerModel):
    """A page of invitations."""

    items: list[Invitation]
    next_cursor: str | None


class PeopleCounts(AnswerModel):
    """How many people there are."""

    total: int
    disabled: int
    with_second_factor: int
    organizations: int
    sessions: int


class TaskCounts(AnswerModel):
    """How many tasks there are, by status."""

    total: int
    by_status: dict[str, int]
    failed_last_day: int


class StorageCounts(AnswerModel):
    """How much is stored."""

    files: int
    bytes: int


class Overview(AnswerModel):
    """The platform in numbers."""

    people: PeopleCounts
    tasks: TaskCounts
    storage: StorageCounts


class KeySet(AnswerModel):
    """The public keys of access tokens: a JSON Web Key Set (RFC 7517)."""

    keys: list[dict[str, str]]
