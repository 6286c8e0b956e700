"""A sign-in provider that is down, or whose answers are not those of OpenID Connect: faults that a real one does not have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api.auth import provider as module
from api.auth.provider import SignInProvider
from api.http.problems import Problem
from shared.settings import Settings

Answers = Mapping[str, bytes]
"""What the provider answers on each path: a whole answer of HTTP, or nothing at all. `ISSUER` stands for its issuer."""
DISCOVERY = "/.well-known/openid-configuration"
ENDPOINTS = {
    "issuer": "ISSUER",
    "authorization_endpoint": "ISSUER/authorize",
    "token_endpoint": "ISSUER/token",
    "jwks_uri": "ISSUER/keys",
}


def answer(body: object, status: int = 200) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nConnection: close\r\n\r\n%b" % (status, content)


@asynccontextmanager
async def open_provider(answers: Answers) -> AsyncIterator[SignInProvider]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            found = answers.get(request.split()[1].decode(), answer({}, 404))
            writer.write(found.replace(b"ISSUER", issuer.encode()))
            await writer.drain()
            if not found:
                await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    opened = SignInProvider(Settings(oidc_issuer=issuer, oidc_client_id="taskmill", oidc_client_secret="secret"))  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        await opened.close()
        server.close()


def refusal(answers: Answers) -> tuple[str, int]:
    """Return the problem of a sign-in with a provider that answers so."""

    async def try_it() -> tuple[str, int]:
        async with open_provider(answers) as provider:
            with pytest.raises(Problem) as raised:
                await provider.exchange("a code", nonce="a nonce", verifier="v" * 43)
            return raised.value.name, raised.value.status

    return asyncio.run(try_it())


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ENDPOINTS.items() if key != name}


@pytest.mark.parametrize(
    "discovery",
    [
        answer({}, 500),
        answer(b"<html>"),
        answer([1]),
        answer(b"[" * 100_000),
        answer(b"x" * ((1 << 20) + 1)),
        answer({**ENDPOINTS, "issuer": "https://evil.example"}),
        answer({**ENDPOINTS, "token_endpoint": "file:///etc/passwd"}),
        answer({**ENDPOINTS, "token_endpoint": 7}),
        answer({**ENDPOINTS, "token_endpoint_auth_methods_supported": "none"}),
        *(answer(without(name)) for name in ENDPOINTS),
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_a_discovery_document_that_is_none_makes_the_provider_unavailable(discovery: bytes) -> None:
    assert refusal({DISCOVERY: discovery}) == ("provider-unavailable", 503)


@pytest.mark.parametrize(
    ("token", "name"),
    [
        (answer({"error": "invalid_grant"}, 400), "invalid-credentials"),
        (answer({"error": "invalid_client"}, 401), "provider-unavailable"),
        (answer(b"oops", 500), "provider-unavailable"),
        (answer({"access_token": "a"}), "provider-unavailable"),
        (answer({"id_token": 7}), "provider-unavailable"),
        (answer({"id_token": "a.b.c"}), "invalid-credentials"),
    ],
)
def test_an_answer_without_a_valid_token_signs_nobody_in(token: bytes, name: str) -> None:
    answers = {DISCOVERY: answer(ENDPOINTS), "/keys": answer({"keys": []}), "/token": token}

    assert refusal(answers)[0] == name


def test_keys_that_are_none_make_the_provider_unavailable() -> None:
    answers = {DISCOVERY: answer(ENDPOINTS), "/token": answer({"id_token": "a.b.c"}), "/keys": answer({"keys": 1})}

    assert refusal(answers)[0] == "provider-unavailable"


def test_a_provider_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)

    assert refusal({DISCOVERY: b""})[0] == "provider-unavailable"


def test_a_provider_that_does_not_listen_is_unavailable_until_it_does() -> None:
    async def try_it() -> None:
        down = SignInProvider(Settings(oidc_issuer="http://127.0.0.1:9", oidc_client_id="taskmill"))
        with pytest.raises(Problem, match="provider-unavailable"):
            await down.authorization_url(state="s", nonce="n", verifier="v" * 43)
        await down.close()
        async with open_provider({DISCOVERY: answer(ENDPOINTS)}) as up:
            assert "code_challenge_method=S256" in await up.authorization_url(state="s", nonce="n", verifier="v" * 43)

    asyncio.run(try_it())
