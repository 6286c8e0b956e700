"""Statements on the role that the running parts connect with, for psycopg. The owner of the tables executes them."""

from __future__ import annotations

from typing import Final

from psycopg import sql

DESCRIBE_ROLE: Final = """
SELECT current_user AS owner,
       current_database() AS database,
       current_schema() AS schema,
       EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s) AS exists,
       EXISTS (
           SELECT FROM pg_roles AS role WHERE rolname = %(role)s AND pg_has_role(role.oid, current_user, 'MEMBER')
       ) AS has_rights_of_owner
"""
"""Return who the owner is, where the tables are, whether the role exists, and whether it could act as the owner."""


def create_role(role: str) -> sql.Composed:
    """Create a role that may log in and nothing else."""
    return sql.SQL(
        "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT"
    ).format(sql.Identifier(role))


def set_password(role: str, scram_secret: str) -> sql.Composed:
    """Set the password of a role. It is passed as a SCRAM secret, so that no log of the server can show it."""
    return sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(scram_secret))


def list_grants(role: str, database: str, schema: str) -> list[sql.Composed]:
    """Return the statements that let a role read and write rows, now and in tables that later migrations make.

    The revision of the schema is for `migrate` to write, so the role may only read it. It may add to the audit log, but change
    and delete nothing there, except by the function that deletes old seals. LISTEN and NOTIFY need no right.
    """
    names = {"role": sql.Identifier(role), "database": sql.Identifier(database), "schema": sql.Identifier(schema)}
    return [
        sql.SQL(statement).format(**names)
        for statement in (
            "GRANT CONNECT ON DATABASE {database} TO {role}",
            "GRANT USAGE ON SCHEMA {schema} TO {role}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
            "REVOKE INSERT, UPDATE, DELETE ON {schema}.alembic_version FROM {role}",
            "REVOKE UPDATE, DELETE ON {schema}.audit_entries, {schema}.audit_seals FROM {role}",
            "REVOKE INSERT, DELETE ON {schema}.audit_chain FROM {role}",
            "GRANT EXECUTE ON FUNCTION {schema}.taskmill_delete_old_seals(integer, integer) TO {role}",
            "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {role}",
        )
    ]
