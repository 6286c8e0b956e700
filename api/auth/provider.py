"""Speaks with the sign-in provider of the operator: discovery, keys, the exchange of a code, and the claims of a person.

The answers of the provider are bounded in size and time. Its discovery document is cached for an hour and its keys for ten minutes;
a token that is signed by an unknown key causes the keys to be read again, so that a rotation of the provider refuses nobody.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import httpcore2
import structlog
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc.jwk import Key

from api.auth.id_tokens import InvalidIdToken, UnknownKey, read_id_token, read_keys
from api.http.problems import Problem
from shared.settings import Settings

CALLBACK_PATH: Final = "/auth/oidc/callback"
DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
ANSWER_SECONDS: Final = 10.0
"""How long a request to the provider may take in all."""
MAX_ANSWER_BYTES: Final = 1 << 20
MAX_CONNECTIONS: Final = 10
DISCOVERY_SECONDS: Final = 3600.0
KEYS_SECONDS: Final = 600.0
RETRY_AFTER_SECONDS: Final = 5
AGAIN: Final = "Begin again at `/auth/oidc/login`."
T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True)
class Endpoints:
    """What the discovery document of the provider says."""

    authorization: str
    token: str
    keys: str
    userinfo: str | None
    auth_method: str
    """How the client shows its secret at the token endpoint."""


@dataclass(frozen=True)
class _Cached(Generic[T]):
    value: T
    read_at: float


class SignInProvider:
    """The provider that the operator has set."""

    def __init__(self, settings: Settings) -> None:
        self.issuer = settings.oidc_issuer
        self._client_id = settings.oidc_client_id
        self._client_secret = settings.oidc_client_secret.get_secret_value()
        self._scopes = settings.oidc_scopes
        self._redirect_uri = settings.public_url + CALLBACK_PATH
        self._pool = httpcore2.AsyncConnectionPool(max_connections=MAX_CONNECTIONS, keepalive_expiry=30.0)
        self._endpoints: _Cached[Endpoints] | None = None
        self._keys: _Cached[list[Key]] | None = None
        self._reading = asyncio.Lock()

    async def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Return the URL of the provider to which a browser is sent. Raises `provider-unavailable`."""
        endpoints = await self._read_endpoints()
        url: str = prepare_grant_uri(
            endpoints.authorization,
            self._client_id,
            "code",
            redirect_uri=self._redirect_uri,
            scope=self._scopes,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return url

    async def exchange(self, code: str, *, nonce: str, verifier: str) -> dict[str, Any]:
        """Exchange a code, and return the claims of the person, those of the userinfo endpoint too.

        Raises `invalid-credentials` for a code or a token that is not accepted, and `provider-unavailable`.
        """
        endpoints = await self._read_endpoints()
        tokens = await self._fetch_tokens(endpoints, code, verifier)
        id_token, access_token = tokens.get("id_token"), tokens.get("access_token")
        if not isinstance(id_token, str):
            raise self._broken("the answer of the token endpoint has no ID token")
        if not isinstance(access_token, str):
            access_token = None
        claims = await self._verify(endpoints, id_token, nonce, access_token)
        if endpoints.userinfo is None or access_token is None:
            return claims
        headers = {"authorization": f"Bearer {access_token}"}
        status, found = await self._send("GET", endpoints.userinfo, headers)
        if status != 200 or not isinstance(found, dict):
            raise self._broken("the userinfo endpoint does not answer with claims", status=status)
        # OpenID Connect Core 1.0, section 5.3.2: another subject is that of another person.
        if found.get("sub") != claims["sub"]:
            raise self._refused("the userinfo endpoint answers with another subject")
        return {**found, **claims}

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._pool.aclose()

    async def _fetch_tokens(self, endpoints: Endpoints, code: str, verifier: str) -> dict[str, Any]:
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=verifier
        )
        auth = ClientAuth(self._client_id, self._client_secret, endpoints.auth_method)
        headers = {"content-type": "application/x-www-form-urlencoded"}
        url, headers, body = auth.prepare("POST", endpoints.token, headers, body)
        status, found = await self._send("POST", url, headers, body.encode())
        if not isinstance(found, dict):
            raise self._broken("the token endpoint does not answer with a JSON object", status=status)
        if status == 400 and found.get("error") == "invalid_grant":
            raise self._refused("the provider does not accept the code")
        if status != 200:
            raise self._broken(
                "the token endpoint refuses this client", status=status, error=str(found.get("error"))[:100]
            )
        return found

    async def _verify(
        self, endpoints: Endpoints, id_token: str, nonce: str, access_token: str | None
    ) -> dict[str, Any]:
        def read(keys: list[Key]) -> dict[str, Any]:
            return read_id_token(
                id_token,
                keys,
                issuer=self.issuer,
                client_id=self._client_id,
                nonce=nonce,
                access_token=access_token,
                now=time.time(),
            )

        try:
            try:
                return read(await self._read_keys(endpoints, KEYS_SECONDS))
            except UnknownKey:
                return read(await self._read_keys(endpoints, 0))
        except InvalidIdToken as error:
            raise self._refused(f"the ID token is not accepted: {error}") from None

    async def _read_endpoints(self) -> Endpoints:
        """Return what the discovery document says."""
        if (known := _fresh(self._endpoints, DISCOVERY_SECONDS)) is not None:
            return known
        async with self._reading:
            if (known := _fresh(self._endpoints, DISCOVERY_SECONDS)) is not None:
                return known
            read_at = time.monotonic()
            status, found = await self._send("GET", self.issuer.rstrip("/") + DISCOVERY_PATH, {})
            if status != 200 or not isinstance(found, dict):
                raise self._broken("there is no discovery document", status=status)
            endpoints = self._check_discovery(found)
            self._endpoints = _Cached(endpoints, read_at)
            return endpoints

    def _check_discovery(self, found: Mapping[str, Any]) -> Endpoints:
        # OpenID Connect Discovery 1.0, section 4.3: anything else could be the document of another provider.
        if found.get("issuer") != self.issuer:
            raise self._broken("the discovery document names another issuer than TASKMILL_OIDC_ISSUER")
        urls: dict[str, str] = {}
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            url = found.get(name)
            if url is None and name == "userinfo_endpoint":
                continue
            if not isinstance(url, str) or not _is_as_safe(url, self.issuer):
                raise self._broken(f"{name} of the discovery document is not a URL, or is one without TLS")
            urls[name] = url
        methods = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if not isinstance(methods, list):
            raise self._broken("token_endpoint_auth_methods_supported of the discovery document is not a list")
        if not self._client_secret:
            method = "none"
        elif "client_secret_basic" in methods or "client_secret_post" not in methods:
            method = "client_secret_basic"
        else:
            method = "client_secret_post"
        return Endpoints(
            urls["authorization_endpoint"],
            urls["token_endpoint"],
            urls["jwks_uri"],
            urls.get("userinfo_endpoint"),
            method,
        )

    async def _read_keys(self, endpoints: Endpoints, most_seconds: float) -> list[Key]:
        """Return the keys of the provider, as they were at most so many seconds ago."""
        if (known := _fresh(self._keys, most_seconds)) is not None:
            return known
        async with self._reading:
            if (known := _fresh(self._keys, most_seconds)) is not None:
                return known
            read_at = time.monotonic()
            status, found = await self._send("GET", endpoints.keys, {})
            try:
                if status != 200 or not isinstance(found, dict):
                    raise ValueError("it is not a JSON object")
                keys = read_keys(found)
            except ValueError:
                raise self._broken("jwks_uri does not answer with a set of keys", status=status) from None
            self._keys = _Cached(keys, read_at)
            return keys

    async def _send(self, method: str, url: str, headers: Mapping[str, str], content: bytes = b"") -> tuple[int, Any]:
        """Send a request, and return the status and the JSON of the answer, or None for what is no JSON."""
        fields = {"host": urlsplit(url).netloc, "accept": "application/json", "accept-encoding": "identity", **headers}
        if method == "POST":
            fields["content-length"] = str(len(content))
        body = b""
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self._pool.stream(
                    method, url, headers=[(k.encode(), v.encode()) for k, v in fields.items()], content=content
                ) as answer,
            ):
                async for chunk in answer.aiter_stream():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise self._broken("an answer has more than 1 MiB", url=url)
                status: int = answer.status
        except (
            httpcore2.NetworkError,
            httpcore2.TimeoutException,
            httpcore2.ProtocolError,
            httpcore2.UnsupportedProtocol,
            OSError,
            ValueError,
        ) as error:
            raise self._broken("it does not answer", url=url, error=type(error).__name__) from None
        try:
            return status, json.loads(body)
        except (ValueError, RecursionError):
            return status, None

    def _broken(self, reason: str, **fields: Any) -> Problem:
        log.warning("provider_unavailable", issuer=self.issuer, reason=reason, **fields)
        return Problem("provider-unavailable", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})

    def _refused(self, reason: str) -> Problem:
        log.warning("provider_sign_in_refused", issuer=self.issuer, reason=reason)
        return Problem("invalid-credentials", f"The sign-in with the provider was not accepted: {reason}. {AGAIN}")


def _fresh(cached: _Cached[T] | None, most_seconds: float) -> T | None:
    return cached.value if cached is not None and time.monotonic() - cached.read_at < most_seconds else None


def _is_as_safe(url: str, issuer: str) -> bool:
    """Return whether a URL has TLS, which only an issuer without TLS, as in tests, can do without."""
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.hostname) and parts.username is None and not parts.fragment
    except ValueError:
        return False
    return is_complete and (parts.scheme == "https" or (parts.scheme == "http" and issuer.startswith("http://")))
