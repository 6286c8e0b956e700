"""Keys of the time before roles in organizations keep their reach, and processes of that time run beside this version."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from api.auth.authentication import Authenticator
from api.auth.caller import Caller
from api.auth.signing import TokenSigner
from cli.local_stack.postgres import PostgresServer
from shared.api_keys import key_digest, list_keys
from shared.database.connections import make_async_engine, make_engine
from shared.database.schema_migrations import migrate, upgrade
from shared.identifiers import new_id
from shared.permissions import Permission
from shared.settings import Settings
from shared.stored_secrets import SecretCipher
from tests.conftest import new_database

OLD_SCOPES = {
    "client": ["tasks:read", "tasks:write", "files:read", "files:write"],
    "operator": ["tasks:read", "tasks:write", "files:read", "files:write"],
    "admin": ["tasks:read", "tasks:write", "files:read", "files:write", "admin"],
}
INSERT_KEY = """
WITH organization AS (INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), %(name)s) RETURNING id),
caller AS (
    INSERT INTO callers (id, organization_id, name) SELECT gen_random_uuid(), id, %(name)s FROM organization RETURNING id)
INSERT INTO api_keys (id, caller_id, name, prefix, sha256, role, scopes, expires_at)
SELECT gen_random_uuid(), id, %(name)s, %(prefix)s, %(sha256)s, %(role)s, %(scopes)s, NULL FROM caller
"""
"""What the version before executed to store a key."""
SELECT_ROLES = "SELECT name, role, scopes FROM api_keys ORDER BY name"
"""What the version before reads of a key."""


def old_key(role: str, moment: str) -> str:
    return f"tm_{role[:6]:0<6}{moment[:6]:0<6}_Zm9yIG9sZCBrZXlz-dGhlcmUgd2FzIG5v_Y2hlY2tz"


def insert_old_keys(settings: Settings, moment: str) -> None:
    with psycopg.connect(settings.database_url) as connection:
        for role, scopes in OLD_SCOPES.items():
            key = old_key(role, moment)
            values = {"name": f"{role} {moment}", "prefix": key.split("_")[1], "sha256": key_digest(key)}
            connection.execute(INSERT_KEY, {**values, "role": role, "scopes": scopes})


@pytest.fixture(scope="module")
def migrated(postgres_server: PostgresServer) -> Iterator[Settings]:
    """A database with keys that the version before stored, before the migration and beside this version."""
    with new_database(postgres_server) as url:
        settings = Settings(database_url=url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        engine = make_engine(settings, "test")
        upgrade(engine, "0021")
        engine.dispose()
        insert_old_keys(settings, "before")
        migrate(settings)
        insert_old_keys(settings, "beside")
        yield settings


def find_caller(settings: Settings, key: str) -> Caller:
    async def find() -> Caller:
        engine = make_async_engine(settings, "test")
        signer = TokenSigner(settings, engine, SecretCipher(settings))
        authenticator = Authenticator(engine.execution_options(isolation_level="AUTOCOMMIT"), signer)
        caller = await authenticator.caller(f"Bearer {key}", None)
        await authenticator.close()
        await engine.dispose()
        return caller

    return asyncio.run(find())


@pytest.mark.parametrize("moment", ["before", "beside"])
def test_an_old_key_of_a_client_reaches_its_own_organization_only(migrated: Settings, moment: str) -> None:
    caller = find_caller(migrated, old_key("client", moment))

    assert (caller.role, caller.platform_role) == ("client", None)
    assert caller.visible_organization_id == caller.organization_id
    caller.require(Permission.TASKS_SUBMIT, Permission.FILES_UPLOAD)
    assert not caller.has_for(Permission.TASKS_READ, new_id())
    assert not caller.has(Permission.QUEUES_PAUSE)


@pytest.mark.parametrize("moment", ["before", "beside"])
def test_an_old_key_of_an_operator_acts_everywhere_and_deletes_its_own(migrated: Settings, moment: str) -> None:
    caller = find_caller(migrated, old_key("operator", moment))

    assert caller.visible_organization_id is None
    caller.require(Permission.TASKS_SUBMIT, Permission.TASKS_SUBMIT_PLATFORM_KINDS, Permission.QUEUES_PAUSE)
    assert caller.has_for(Permission.TASKS_ACT, new_id())
    assert caller.has_for(Permission.TASKS_DELETE, caller.organization_id)
    assert not caller.has_for(Permission.TASKS_DELETE, new_id())
    assert caller.rate_key.startswith("privileged:")


@pytest.mark.parametrize("moment", ["before", "beside"])
def test_an_old_key_of_an_admin_may_do_everything_everywhere(migrated: Settings, moment: str) -> None:
    caller = find_caller(migrated, old_key("admin", moment))

    caller.require(*Permission)
    assert caller.has_for(Permission.FILES_DELETE, new_id())
    assert caller.reach_of(Permission.TASKS_DELETE) is None


def test_the_version_before_reads_what_it_stored_of_its_keys(migrated: Settings) -> None:
    with psycopg.connect(migrated.database_url) as connection:
        rows = connection.execute(SELECT_ROLES).fetchall()

    assert {(name.split()[0], role, tuple(scopes)) for name, role, scopes in rows} == {
        (role, role, tuple(scopes)) for role, scopes in OLD_SCOPES.items()
    }
    assert {key.name: key.role for key in list_keys(migrated)} == {row[0]: row[1] for row in rows}
