"""Signs people in with the provider of the operator, by the authorization code flow of OpenID Connect with PKCE.

A sign-in begins with a random secret in a cookie of the browser. `state`, `nonce` and the PKCE verifier are derived from it, and
the database has its digest, which the callback deletes: so a callback counts once, and only in the browser that began.

Who someone is, the issuer and its subject say. An unknown subject is linked to the person with the same address if the provider
says that the address is verified, and if that person has no other subject of this issuer.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auth.auth_models import Tokens
from api.auth.clients import Client
from api.auth.provider import AGAIN, SignInProvider
from api.auth.provider_roles import ProviderRoles
from api.auth.registration import Registrations
from api.auth.sessions import Sessions
from api.auth.sign_in import choose_organization, grant_scopes
from api.http.problems import Problem
from shared.audit.actions import AuditAction
from shared.people.email_addresses import SignInAddress, UnusableAddress, parse_sign_in_address
from shared.people.one_use_tokens import new_token, token_digest
from shared.people.provider_grants import Granted, apply_grants
from shared.queries import identities as queries
from shared.queries import people as people_queries
from shared.settings import Settings

REQUEST_SECONDS: Final = 600
"""How long somebody may take at the provider."""
MAX_NAME_CHARACTERS: Final = 200
NOT_SET: Final = "This server has no sign-in provider: its operator can set TASKMILL_OIDC_ISSUER."
EXPIRED: Final = (
    "This sign-in was completed before, began in another browser, or took longer than "
    f"{REQUEST_SECONDS // 60} minutes. {AGAIN}"
)
NOT_ADMITTED: Final = (
    "The provider signed you in, but nothing admits you here. Ask the operator for a grant in TASKMILL_OIDC_GRANTS, or an admin "
    "to create your account."
)


class Begun(NamedTuple):
    """A sign-in that goes on at the provider."""

    url: str
    secret: str
    """What the browser keeps in a cookie until it comes back."""


class Completed(NamedTuple):
    """A sign-in that has come back."""

    tokens: Tokens
    return_to: str | None


@dataclass(frozen=True)
class Callback:
    """The query with which the provider sends the browser back."""

    code: str | None
    state: str | None
    error: str | None
    issuer: str | None


class ProviderSignIn:
    """Signs people in with the provider, and gives them the roles of their claims."""

    def __init__(
        self,
        settings: Settings,
        *,
        engine: AsyncEngine,
        reads: AsyncEngine,
        sessions: Sessions,
        registrations: Registrations,
    ) -> None:
        self._grants = settings.oidc_grant_list
        self._trusts_email = settings.oidc_trusts_email
        self._is_open = settings.registration == "open"
        self._engine = engine
        self._reads = reads
        self._sessions = sessions
        self._registrations = registrations
        self._roles = ProviderRoles(sessions)
        self._provider = SignInProvider(settings) if settings.oidc_issuer else None

    async def begin(self, scopes: Sequence[str], organization: str | None, return_to: str | None) -> Begun:
        """Store a sign-in, and return where the browser goes. Raises `not-found` without a provider."""
        provider = self._require_provider()
        secret = new_token("provider")
        derived = _Derived.of(secret)
        url = await provider.authorization_url(state=derived.state, nonce=derived.nonce, verifier=derived.verifier)
        values = {
            "sha256": token_digest("provider", secret),
            "organization": organization,
            "scopes": sorted(set(scopes)) or None,
            "return_to": return_to,
        }
        async with self._engine.begin() as connection:
            await connection.execute(queries.insert_provider_request(values, REQUEST_SECONDS))
        return Begun(url, secret)

    async def complete(self, callback: Callback, secret: str | None, client: Client) -> Completed:
        """Return the tokens of a new session. Every refusal of the person or of the provider is audited."""
        provider = self._require_provider()
        derived, begun = await self._take(callback, secret)
        try:
            if callback.issuer is not None and callback.issuer != provider.issuer:
                raise Problem("invalid-credentials", f"Another provider has answered (RFC 9207). {AGAIN}")
            if callback.error is not None or not callback.code:
                raise Problem(
                    "invalid-credentials", f"The provider refused the sign-in{_quote(callback.error)}. {AGAIN}"
                )
            claims = await provider.exchange(callback.code, nonce=derived.nonce, verifier=derived.verifier)
            session_id, refresh_token = await self._enter(provider.issuer, claims, begun, client)
        except Problem as problem:
            if problem.name != "provider-unavailable":
                await self._note_failure(client)
            raise
        return Completed(await self._sessions.issue(session_id, refresh_token), begun.return_to)

    async def close(self) -> None:
        """Close the connections to the provider."""
        if self._provider is not None:
            await self._provider.close()

    def _require_provider(self) -> SignInProvider:
        if self._provider is None:
            raise Problem("not-found", NOT_SET)
        return self._provider

    async def _take(self, callback: Callback, secret: str | None) -> tuple[_Derived, Any]:
        """Return a sign-in that has come back to the browser where it began, and delete it."""
        digest = token_digest("provider", secret) if secret is not None else None
        if secret is None or digest is None:
            raise Problem("invalid-credentials", EXPIRED)
        derived = _Derived.of(secret)
        if not hmac.compare_digest(derived.state.encode(), (callback.state or "").encode("utf-8", "replace")):
            raise Problem("invalid-credentials", EXPIRED)
        async with self._engine.begin() as connection:
            begun = (await connection.execute(queries.take_provider_request(digest))).one_or_none()
        if begun is None:
            raise Problem("invalid-credentials", EXPIRED)
        return derived, begun

    async def _enter(self, issuer: str, claims: Mapping[str, Any], begun: Any, client: Client) -> tuple[UUID, str]:
        """Begin a session of the person of the claims, who is created or linked if need be, and has the roles of the claims."""
        granted = apply_grants(self._grants, claims)
        async with self._engine.begin() as connection:
            # The first two locks are in the order of `/users`, so that two requests never wait for each other.
            await connection.execute(people_queries.lock_platform_admins())
            await connection.execute(queries.lock_identities())
            person_id = await self._find_or_link(connection, issuer, claims, granted, client)
            person = (await connection.execute(people_queries.lock_person(person_id))).one()
            if person.disabled_at is not None:
                raise Problem("forbidden", "Your account is disabled: ask an admin.")
            await self._roles.apply(connection, person, granted, client)
            if self._is_open:
                await self._registrations.found_organization_if_none(connection, person)
            person = (await connection.execute(people_queries.lock_person(person_id))).one()
            organization_id, role = await choose_organization(
                connection, person_id, begun.organization, "query:organization"
            )
            scopes = grant_scopes(begun.scopes or (), role, person.platform_role)
            return await self._sessions.begin(connection, person_id, organization_id, scopes, "oidc", client)

    async def _find_or_link(
        self, connection: AsyncConnection, issuer: str, claims: Mapping[str, Any], granted: Granted, client: Client
    ) -> UUID:
        """Return the person of a subject."""
        subject: str = claims["sub"]
        known: UUID | None = (await connection.execute(queries.use_identity(issuer, subject))).scalar_one_or_none()
        if known is not None:
            return known
        address = self._verified_address(claims)
        person = (await connection.execute(people_queries.find_person(address.key))).one_or_none()
        if person is None:
            if not granted.is_something and not self._is_open:
                raise Problem("registration-closed", NOT_ADMITTED)
            person_id = await self._registrations.insert_of_provider(connection, address, _name_of(claims), client)
        else:
            person_id = person.id
            if (await connection.execute(queries.find_identity_of(person_id, issuer))).first() is not None:
                raise Problem(
                    "conflict",
                    "The account with your address belongs to another person at the provider. Ask an admin to change or to delete "
                    "that account.",
                )
            await self._registrations.trust_address(connection, person, client)
        await connection.execute(queries.insert_identity(issuer, subject, person_id))
        await self._sessions.note(connection, AuditAction.IDENTITY_LINKED, person_id, person_id, client)
        return person_id

    def _verified_address(self, claims: Mapping[str, Any]) -> SignInAddress:
        """Return the address that the provider has verified. Raises `email-not-verified`."""
        email = claims.get("email")
        is_verified = claims.get("email_verified")
        if is_verified is None and self._trusts_email:
            is_verified = True
        if not isinstance(email, str) or is_verified is not True:
            raise Problem(
                "email-not-verified",
                "The provider does not say that you have a verified email address: verify it there, or let the operator check "
                "TASKMILL_OIDC_SCOPES and TASKMILL_OIDC_TRUSTS_EMAIL.",
            )
        try:
            return parse_sign_in_address(email)
        except UnusableAddress as error:
            raise Problem(
                "email-not-verified", f"The address that the provider has for you is unusable. {error}"
            ) from None

    async def _note_failure(self, client: Client) -> None:
        async with self._engine.begin() as connection:
            await self._sessions.note(
                connection, AuditAction.SIGN_IN_FAILED, None, None, client, after={"wrong": "provider"}
            )


class _Derived(NamedTuple):
    """What is derived from the secret of a browser. None of them tells another one."""

    state: str
    nonce: str
    verifier: str

    @classmethod
    def of(cls, secret: str) -> _Derived:
        return cls(*(_derive(secret, purpose) for purpose in ("state", "nonce", "code_verifier")))


def _derive(secret: str, purpose: str) -> str:
    return urlsafe_b64encode(hmac.digest(secret.encode(), purpose.encode(), "sha256")).rstrip(b"=").decode()


def _name_of(claims: Mapping[str, Any]) -> str | None:
    name = claims.get("name")
    if not isinstance(name, str):
        return None
    return " ".join("".join(c for c in name if c.isprintable()).split())[:MAX_NAME_CHARACTERS] or None


def _quote(error: str | None) -> str:
    """Return the error code of a provider, unless it is no code (RFC 6749, section 4.1.2.1)."""
    return f": {error}" if error is not None and re.fullmatch(r"[a-z_]{1,50}", error) else ""
