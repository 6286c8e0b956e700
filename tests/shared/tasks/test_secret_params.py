"""Secret params are encrypted where the contract marks them, and masked wherever they are stored."""

from __future__ import annotations

import json
from typing import Annotated, Any

import orjson
import pytest
from pydantic import BaseModel, Field, SecretStr

from shared.contracts.kind import Kind, Params, Result
from shared.contracts.secrets import MASK, REVEAL, Secret, has_secrets
from shared.settings import Settings
from shared.stored_secrets import SecretCipher, UnreadableSecret
from shared.tasks.secret_params import (
    digest_params,
    list_masked,
    mask_json,
    mask_value,
    open_params,
    restore_masked,
    seal_params,
)


class Login(BaseModel):
    user: str
    token: Secret | None = None


class FetchParams(Params):
    password: Annotated[Secret, Field(min_length=3)]
    headers: dict[str, Secret] = Field(default_factory=dict)
    logins: list[Login] = Field(default_factory=list)
    note: Any = None


class FetchResult(Result):
    """It has no fields."""


class OpenParams(Params):
    note: Any = None


FETCH: Kind[FetchParams, FetchResult] = Kind(
    params=FetchParams, result=FetchResult, title="Fetch", description="Fetches.", queue="files"
)
OPEN: Kind[OpenParams, FetchResult] = Kind(
    params=OpenParams, result=FetchResult, title="Open", description="Opens.", queue="files"
)
SENT = {
    "password": "hunter2 é",
    "headers": {"x-key": "k-1"},
    "logins": [{"user": "ada", "token": "t-1"}, {"user": "bob", "token": None}],
    "note": '{"$secret": "as a text"}',
}
SECRETS = ("hunter2", "k-1", "t-1")
CIPHER = SecretCipher(Settings(secret_key="a" * 40))


def sealed() -> bytes:
    return seal_params(FETCH, orjson.dumps(SENT), CIPHER)


def test_every_secret_is_encrypted_and_nothing_else() -> None:
    stored = orjson.loads(sealed())

    assert not any(secret in str(stored) for secret in SECRETS)
    assert stored["logins"][0]["user"] == "ada" and stored["logins"][1]["token"] is None
    assert stored["note"] == SENT["note"]
    assert orjson.loads(open_params(FETCH, orjson.dumps(stored).decode(), CIPHER)) == SENT


def test_stored_secrets_are_masked_in_json_with_and_without_spaces() -> None:
    spaced = orjson.loads(sealed())
    masked = {
        **SENT,
        "password": MASK,
        "headers": {"x-key": MASK},
        "logins": [{"user": "ada", "token": MASK}, {"user": "bob", "token": None}],
    }

    assert orjson.loads(mask_json(sealed().decode())) == masked
    assert orjson.loads(mask_json(json.dumps(spaced))) == masked
    assert mask_value(spaced) == masked
    assert mask_value(SENT) is SENT


def test_the_json_of_a_model_has_the_mask_unless_secrets_are_asked_for() -> None:
    params = FetchParams.model_validate_json(orjson.dumps(SENT), strict=True)

    assert not any(secret in text for secret in SECRETS for text in (params.model_dump_json(), repr(params)))
    assert orjson.loads(params.model_dump_json(context=REVEAL)) == SENT
    assert params.password.get_secret_value() == SENT["password"]


def test_secrets_are_compared_by_a_keyed_digest() -> None:
    params = orjson.dumps(SENT)
    reordered = orjson.dumps(dict(reversed(SENT.items())))
    other = SecretCipher(Settings(secret_key="b" * 40))

    assert digest_params(FETCH, params, CIPHER) == digest_params(FETCH, reordered, CIPHER)
    assert digest_params(FETCH, params, CIPHER) != digest_params(FETCH, params, other)
    assert digest_params(OPEN, params, CIPHER) is None


def test_a_mask_that_is_sent_back_means_the_earlier_secret_at_its_place() -> None:
    changed = {**SENT, "password": MASK, "headers": {"x-key": "new", "y-key": MASK}}

    restored = restore_masked(FETCH, changed, SENT)

    assert (restored["password"], restored["headers"]) == (SENT["password"], {"x-key": "new", "y-key": MASK})
    assert list_masked(FETCH, restored) == [("headers", "y-key")]


def test_a_kind_without_secrets_is_left_alone() -> None:
    params = orjson.dumps({"note": {"$secret": "v1:x:y"}})

    assert seal_params(OPEN, params, CIPHER) is params
    assert open_params(OPEN, params.decode(), CIPHER) == params.decode()
    assert (has_secrets(OpenParams), has_secrets(FetchParams)) == (False, True)


def test_a_key_that_is_no_longer_set_is_named() -> None:
    other = SecretCipher(Settings(secret_key="a" * 40, encryption_keys="2026:" + "00" * 32))
    stored = seal_params(FETCH, orjson.dumps(SENT), other).decode()

    with pytest.raises(UnreadableSecret, match="no key named '2026' is set"):
        open_params(FETCH, stored, CIPHER)


def test_a_secret_of_pydantic_alone_is_refused() -> None:
    class Careless(Params):
        password: SecretStr

    with pytest.raises(TypeError, match=r"use shared\.contracts\.secrets\.Secret"):
        has_secrets(Careless)
