"""Sends a person a message about their account, with a token that is made for it. Only the digest of the token is stored."""

from __future__ import annotations

from typing import Final, NamedTuple

from shared.contracts.email.account import AccountParams, AccountResult
from shared.contracts.email.send import SendParams
from shared.people.one_use_tokens import Purpose, new_token, token_digest
from shared.queries import people as queries
from workers.handler_context import HandlerContext
from workers.handlers.email._deliveries import read_deliveries
from workers.handlers.email._sending import deliver, make_mail_server

TOKEN_SECONDS: Final = 3600
IGNORE: Final = "If you did not ask for this, ignore this message: nothing changes."


class Message(NamedTuple):
    """A message before it is sent."""

    to: str
    subject: str
    text: str


def handle(params: AccountParams, context: HandlerContext) -> AccountResult:
    """Send the message. Nothing is sent when there is no such person or invitation, or nothing to do for it."""
    server = make_mail_server(context)
    known = read_deliveries(context)
    if begun := [*known.unknown, *(address for address, one in known.outcomes.items() if one.status == "accepted")]:
        # An earlier attempt has sent the message, or may have: another token would make that one useless.
        deliver(_compose(begun[0]), context, server)
        return AccountResult(sent=True)
    message = _invite(params, context) if params.message == "invitation" else _write_to_person(params, context)
    if message is None:
        return AccountResult(sent=False)
    deliver(_compose(message.to, message.subject, message.text), context, server)
    return AccountResult(sent=True)


def _compose(to: str, subject: str = "", text: str = "") -> SendParams:
    return SendParams.model_validate({"to": (to,), "subject": subject, "text": text})


def _invite(params: AccountParams, context: HandlerContext) -> Message | None:
    assert params.invitation_id is not None
    token, digest = _make_token("invitation")
    with context.fenced_transaction() as connection:
        stored = connection.execute(queries.store_invitation_token(params.invitation_id, digest)).first()
        if stored is None:
            return None
        invitation = connection.execute(queries.get_invitation(params.invitation_id)).one()
    url = context.settings.public_url
    return Message(
        invitation.email,
        f"Invitation to {invitation.organization_name} on Taskmill",
        f"You are invited to join {invitation.organization_name} on {url} as {invitation.role}.\n\n"
        f"Your invitation, which can be used once, until {stored.expires_at:%Y-%m-%d %H:%M} UTC:\n\n    {token}\n\n"
        "To register, choose a password of at least 12 characters, and send:\n\n"
        f"    POST {url}/auth/register\n"
        f'    {{"email": "{invitation.email}", "password": "…", "invitation": "{token}"}}\n\n'
        "If you have an account here already, sign in, and send:\n\n"
        f"    POST {url}/invitations/accept\n"
        f'    {{"invitation": "{token}"}}\n\n{IGNORE}\n',
    )


def _write_to_person(params: AccountParams, context: HandlerContext) -> Message | None:
    assert params.email_key is not None
    url = context.settings.public_url
    with context.fenced_transaction() as connection:
        person = connection.execute(queries.find_person(params.email_key)).first()
        if person is None or person.disabled_at is not None:
            return None
        if params.message == "password_changed":
            return Message(
                person.email,
                "Your password was changed",
                f"The password of {person.email} on {url} was changed, and your other sessions have ended.\n\n"
                f"If that was not you, choose a new password at once: POST {url}/auth/forgot-password\n",
            )
        if params.message == "verify" and person.email_verified_at is not None:
            return Message(
                person.email,
                "You have an account already",
                f"Somebody, probably you, wanted to register {person.email} on {url}, which has an account already.\n\n"
                f"If you forgot your password: POST {url}/auth/forgot-password\n\n{IGNORE}\n",
            )
        purpose: Purpose = "reset" if params.message == "reset" else "verify"
        token, digest = _make_token(purpose)
        # An earlier token for the same is no longer valid, so that one message at most works.
        connection.execute(queries.drop_person_tokens(person.id, purpose))
        connection.execute(
            queries.insert_person_token(digest, purpose, person.id, TOKEN_SECONDS, {"email_key": person.email_key})
        )
    if purpose == "reset":
        return Message(
            person.email,
            "Choose a new password",
            f"Somebody, probably you, asked for a new password for {person.email} on {url}.\n\n"
            f"Your token, which can be used once, for an hour:\n\n    {token}\n\n"
            f'Send it with the new password:\n\n    POST {url}/auth/reset-password\n    {{"token": "{token}", "password": "…"}}\n\n'
            f"{IGNORE}\n",
        )
    return Message(
        person.email,
        "Verify your email address",
        f"Somebody, probably you, registered {person.email} on {url}.\n\n"
        f"Your token, which can be used once, for an hour:\n\n    {token}\n\n"
        f'Send it:\n\n    POST {url}/auth/verify-email\n    {{"token": "{token}"}}\n\n'
        "If your password is refused then, because the address was registered twice with different ones, choose a new one:\n\n"
        f"    POST {url}/auth/forgot-password\n\n"
        "If you did not register, ignore this message: nobody can sign in with your address until it is verified.\n",
    )


def _make_token(purpose: Purpose) -> tuple[str, bytes]:
    token = new_token(purpose)
    digest = token_digest(purpose, token)
    assert digest is not None
    return token, digest
