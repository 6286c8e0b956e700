"""Stored secrets of every place are encrypted again with another key, and stay what they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from shared import secret_rotation
from shared.identifiers import new_id
from shared.queries.stored_secrets import PLACES
from shared.secret_rotation import rotate_secrets
from shared.settings import Settings
from shared.stored_secrets import SecretCipher
from shared.tasks.secret_params import PURPOSE
from shared.webhooks.signing import SECRET_PURPOSE
from tests.conftest import RunTaskmill

NEW_KEY = "new:" + "01" * 32
OLD_KEY = "old:" + "02" * 32


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def with_keys(settings: Settings, *keys: str) -> Settings:
    return settings.model_copy(update={"encryption_keys": SecretStr(",".join(keys))})


def store_everywhere(connection: psycopg.Connection[Any], cipher: SecretCipher) -> None:
    """Store a secret in every place, without the other rows that would belong to it."""
    connection.execute("SET session_replication_role = replica")
    a, b = new_id(), new_id()
    webhook, param = cipher.encrypt("of a webhook", SECRET_PURPOSE), cipher.encrypt("of params", PURPOSE)
    params = Jsonb({"password": {"$secret": param}, "note": "v1:old:of-nobody"})
    factor, signing = (cipher.encrypt("of a person", purpose) for purpose in (f"second factor of {a}", "signing key k"))
    for table, row in {
        "second_factors": {"person_id": a, "secret": factor},
        "signing_keys": {"id": "k", "public_key": b"x", "private_key": signing},
        "webhook_endpoints": {
            "id": a,
            "organization_id": a,
            "owner_id": a,
            "url": "http://a.example/",
            "event_types": ["x"],
            "secret": webhook,
            "previous_secret": webhook,
            "previous_secret_until": "2030-01-01",
        },
        "webhook_secrets": {
            "organization_id": a,
            "secret": webhook,
            "previous_secret": webhook,
            "previous_secret_until": "2030-01-01",
        },
        "webhook_deliveries": {
            "id": a,
            "organization_id": a,
            "event_type": "x",
            "url": "http://a.example/",
            "secret": webhook,
            "receiver_id": a,
            "give_up_at": "2030-01-01",
        },
        "task_follow_ups": {"task_id": a, "webhook_url": "http://a.example/", "webhook_secret": webhook},
        "schedules": {
            "id": a,
            "name": "one",
            "kind": "a.b",
            "every_seconds": 60,
            "params": params,
            "workflow": Jsonb({"plans": [{"submission": params.obj}]}),
            "follow_up": Jsonb({"webhook_url": "http://a.example/", "webhook_secret": webhook}),
        },
        "workflow_steps": {
            "workflow_id": a,
            "name": "one",
            "place": 0,
            "position": 0,
            "after": [],
            "submission": Jsonb({"params": params.obj}),
            "refs": Jsonb([]),
            "task_id": b,
            "status": "waiting",
        },
        "batch_follow_ups": {"batch_id": a, "on_finished": Jsonb([{"params": params.obj}])},
        "task_payloads": {"task_id": a, "params": params},
    }.items():
        insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        )
        connection.execute(insert, list(row.values()))
    connection.execute("SET session_replication_role = origin")


def read_everywhere(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the text of every place."""
    found = {}
    for place in PLACES:
        table, column = sql.Identifier(place.table.name), sql.Identifier(place.column)
        (value,) = connection.execute(sql.SQL("SELECT {}::text FROM {}").format(column, table)).fetchone() or ("",)
        found[f"{place.table.name}.{place.column}"] = value
    return found


def test_every_stored_secret_is_encrypted_again_with_the_first_key(
    settings: Settings, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store_everywhere(connection, SecretCipher(with_keys(settings, OLD_KEY)))
    before = read_everywhere(connection)
    assert all("v1:old:" in value for value in before.values())
    # So that a table has more rows than one step reads.
    monkeypatch.setattr(secret_rotation, "ROWS_TOGETHER", 1)

    first = rotate_secrets(with_keys(settings, NEW_KEY, OLD_KEY))
    after = read_everywhere(connection)
    second = rotate_secrets(with_keys(settings, NEW_KEY, OLD_KEY))

    assert (first.encrypted_again, first.unreadable) == (len(PLACES), {})
    assert (second.encrypted_again, read_everywhere(connection)) == (0, after)
    assert all("v1:new:" in value for value in after.values())
    only_new = SecretCipher(with_keys(settings, NEW_KEY))
    assert only_new.decrypt(after["webhook_endpoints.secret"], SECRET_PURPOSE) == "of a webhook"
    assert only_new.decrypt(after["signing_keys.private_key"], "signing key k") == "of a person"
    (param,) = connection.execute("SELECT params->'password'->>'$secret' FROM task_payloads").fetchone() or ("",)
    assert only_new.decrypt(param, PURPOSE) == "of params"
    entry = connection.execute("SELECT action, after FROM audit_entries").fetchall()
    assert entry == [("secrets.rotated", {"key": "new", "encrypted_again": len(PLACES)})]


def test_the_command_names_the_keys_that_are_missing(
    settings: Settings, connection: psycopg.Connection[Any], taskmill: RunTaskmill
) -> None:
    store_everywhere(connection, SecretCipher(with_keys(settings, OLD_KEY)))
    environment = {"TASKMILL_DATABASE_URL": settings.database_url, "TASKMILL_BROKER_URL": settings.broker_url}

    without = taskmill("secrets", "rotate", **environment, TASKMILL_ENCRYPTION_KEYS=NEW_KEY)
    with_both = taskmill("secrets", "rotate", **environment, TASKMILL_ENCRYPTION_KEYS=f"{NEW_KEY},{OLD_KEY}")

    assert without.returncode == 1
    assert f"{len(PLACES)} secrets need the key old" in without.stderr
    assert (with_both.returncode, with_both.stdout) == (
        0,
        f"Encrypted {len(PLACES)} secrets again with the key new.\n",
    )
