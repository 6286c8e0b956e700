"""The application role: the database role of the API, the relay, the workers and beat, which owns nothing.

With `TASKMILL_DATABASE_OWNER_URL` set, `migrate` connects as the owner of the tables, and the role of
`TASKMILL_DATABASE_URL` may only read and write their rows. It cannot change, truncate or drop a table, and cannot disable
the triggers that fence stale attempts.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import namedtuple_row

from shared.database.connections import CONNECT_TIMEOUT_SECONDS
from shared.errors import ConfigurationError
from shared.queries import roles
from shared.queries.schema import LOCK_ROLES
from shared.settings import DatabaseSettings


def find_app_role(settings: DatabaseSettings) -> str | None:
    """Return the role of the running parts, or None if they connect as the owner of the tables."""
    if settings.database_owner_url is None:
        return None
    role = conninfo_to_dict(settings.database_url).get("user")
    owner = conninfo_to_dict(settings.database_owner_url).get("user")
    return None if role is None or role == owner else str(role)


def create_app_role(settings: DatabaseSettings) -> None:
    """Create the application role if it does not exist, and set its password if it cannot log in.

    Raises `ConfigurationError` if the owner may not create roles, or if the role could act as the owner.
    """
    if (role := find_app_role(settings)) is None:
        return
    with _connect_as_owner(settings) as connection:
        connection.execute(LOCK_ROLES)
        found = connection.execute(roles.DESCRIBE_ROLE, {"role": role}).fetchone()
        assert found is not None
        if found.has_rights_of_owner:
            raise ConfigurationError(
                f"the role {role} of TASKMILL_DATABASE_URL is a superuser or has the rights of {found.owner}, which owns "
                "the tables: name a role that has neither (a new name is enough: `migrate` creates the role), or unset "
                "TASKMILL_DATABASE_OWNER_URL to work with one role"
            )
        try:
            if not found.exists:
                connection.execute(roles.create_role(role))
            if not found.exists or not _can_log_in(settings.database_url):
                _set_password(connection, role, settings.database_url)
        except psycopg.errors.InsufficientPrivilege:
            if not found.exists:
                raise ConfigurationError(
                    f"the role {role} of TASKMILL_DATABASE_URL does not exist, and {found.owner} may not create it: as a "
                    f"superuser, run CREATE ROLE {role} LOGIN PASSWORD '…'; then run `taskmill migrate` again"
                ) from None
            raise ConfigurationError(
                f"the role {role} cannot log in with the password of TASKMILL_DATABASE_URL, and {found.owner} may not "
                f"change it: as a superuser, run ALTER ROLE {role} PASSWORD '…'"
            ) from None


def grant_to_app_role(settings: DatabaseSettings) -> None:
    """Grant the application role reading and writing of rows in all tables, and in those that later migrations create."""
    if (role := find_app_role(settings)) is None:
        return
    with _connect_as_owner(settings) as connection:
        connection.execute(LOCK_ROLES)
        found = connection.execute(roles.DESCRIBE_ROLE, {"role": role}).fetchone()
        assert found is not None
        for statement in roles.list_grants(role, found.database, found.schema):
            connection.execute(statement)


def _connect_as_owner(settings: DatabaseSettings) -> psycopg.Connection[Any]:
    """Open a connection that commits, and so releases its locks, when its `with` block ends."""
    return psycopg.connect(
        settings.migration_url,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        application_name="taskmill-migrate",
        row_factory=namedtuple_row,
    )


def _set_password(connection: psycopg.Connection[Any], role: str, url: str) -> None:
    """Set the password that the URL has, if it has one."""
    password = conninfo_to_dict(url).get("password")
    if not password:
        return
    secret = connection.pgconn.encrypt_password(str(password).encode(), role.encode(), b"scram-sha-256")
    with connection.transaction():
        connection.execute(roles.set_password(role, secret.decode()))


def _can_log_in(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name="taskmill-migrate").close()
    except psycopg.OperationalError:
        return False
    return True
