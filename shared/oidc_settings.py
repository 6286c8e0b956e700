"""The settings of signing in with a company's own provider, by OpenID Connect."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from shared.people.provider_grants import Grant, UnusableGrants, parse_grants
from shared.setting_subjects import Subject, refusal


class OidcSettings(Subject):
    """How people sign in with a provider of OpenID Connect."""

    title: ClassVar[str] = "Sign-in with a provider (OpenID Connect)"

    oidc_issuer: Annotated[
        str,
        Field(
            description="The issuer of the provider with which people sign in, such as `https://login.example.com`, exactly as its "
            "discovery document writes it. Empty for none. Register `<TASKMILL_PUBLIC_URL>/auth/oidc/callback` with the provider "
            "as redirect URI."
        ),
    ] = ""
    oidc_client_id: Annotated[
        str,
        Field(description="The client id that the provider has given Taskmill. It is the audience of its ID tokens."),
    ] = ""
    oidc_client_secret: Annotated[
        SecretStr,
        Field(
            description="The client secret that the provider has given Taskmill. Empty for a public client, with PKCE alone."
        ),
    ] = SecretStr("")
    oidc_scopes: Annotated[
        str,
        Field(
            description="The scopes that the provider is asked for, separated by spaces. `openid` must be one of them."
        ),
    ] = "openid email profile"
    oidc_grants: Annotated[
        str,
        Field(
            description="What claims of the provider give, as JSON: a list such as "
            '`[{"claim": "groups", "value": "it", "organization": "Acme", "role": "operator"}, '
            '{"claim": "groups", "value": "it-leads", "platform_role": "admin"}]`. Without `value`, everybody whom the provider '
            "signs in. At each sign-in, the roles in the organizations that are named here become what the claims give."
        ),
    ] = "[]"
    oidc_trusts_email: Annotated[
        bool,
        Field(
            description="Treat an address of the provider as verified although its claims have no `email_verified`. Only for a "
            "provider where people cannot choose their address."
        ),
    ] = False
    oidc_session_hours: Annotated[
        int,
        Field(
            ge=1,
            le=8760,
            description="After how many hours people who signed in with the provider must do so again, so that who leaves the "
            "company loses access.",
        ),
    ] = 24

    @cached_property
    def oidc_grant_list(self) -> tuple[Grant, ...]:
        """What claims of the provider give."""
        return parse_grants(self.oidc_grants)

    @field_validator("oidc_issuer")
    @classmethod
    def _require_an_issuer(cls, value: str) -> str:
        url = urlsplit(value)
        if value and (
            url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment or url.username
        ):
            raise refusal("must be a URL without a query, such as https://login.example.com")
        return value

    @field_validator("oidc_scopes")
    @classmethod
    def _require_openid(cls, value: str) -> str:
        if "openid" not in value.split():
            raise refusal("must contain the scope openid")
        return value

    @field_validator("oidc_grants")
    @classmethod
    def _require_grants(cls, value: str) -> str:
        try:
            parse_grants(value)
        except UnusableGrants as error:
            raise refusal(str(error)) from None
        return value

    def list_production_faults(self) -> Iterator[str]:
        """Refuse a provider without TLS, whose answers anybody on the way could write, and one without a client id."""
        if self.oidc_issuer and urlsplit(self.oidc_issuer).scheme != "https":
            yield "TASKMILL_OIDC_ISSUER does not begin with https://, so its answers can be forged: use TLS"
        if self.oidc_issuer and not self.oidc_client_id:
            yield "TASKMILL_OIDC_ISSUER is set without TASKMILL_OIDC_CLIENT_ID: set the id that the provider has given Taskmill"
