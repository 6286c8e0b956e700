"""Prepares the database between the start of the servers and that of the parts: its tables, and the admin with a key.

Run as `python -m cli.local_stack.first_steps --api-key-file FILE [--postgres-directory DIR]`, a process of its own, so
that what it imports loads while the servers start and does not stay in the supervisor.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from cli.local_stack.child_process import wait_until
from cli.local_stack.owned_files import write_atomically
from cli.local_stack.postgres import PostgresServer
from shared.errors import ConfigurationError, TaskmillError
from shared.settings import Settings, read_settings

ADMIN_PASSWORD_FILE = "admin-password"
"""The name of the file with the first password of `admin@localhost`."""
_RECOVERY_SECONDS = 600
_FOREIGN_SERVER_SECONDS = 30


def take_first_steps(settings: Settings, api_key_file: Path, postgres_directory: Path | None) -> None:
    """Wait for the database, create it if it is the built-in one, migrate it, and store the admin and the key of the admin.

    The password of the admin is in the file `admin-password` beside that of the key.

    Raises `TaskmillError` if the database does not answer or cannot be migrated.
    """
    from shared.api_keys import LOCAL_ADMIN, ensure_first_admin_key, new_key
    from shared.database.schema_migrations import migrate
    from shared.people.creation import LOCAL_ADMIN_EMAIL, create_person, has_person

    if postgres_directory is None:
        if not wait_until(lambda: _answers(settings.migration_url), _FOREIGN_SERVER_SECONDS, pause_seconds=0.2):
            raise ConfigurationError("The database at TASKMILL_DATABASE_URL does not answer")
    else:
        server = PostgresServer(postgres_directory)
        # After a power cut Postgres first replays its log, which may take minutes.
        if not wait_until(server.is_ready, _RECOVERY_SECONDS):
            raise ConfigurationError("The built-in Postgres does not answer")
        server.complete()
    migrate(settings)
    if not api_key_file.exists():
        write_atomically(api_key_file, new_key() + "\n")
    ensure_first_admin_key(settings, api_key_file.read_text(encoding="ascii").strip())
    if not has_person(settings, LOCAL_ADMIN_EMAIL):
        password_file = api_key_file.with_name(ADMIN_PASSWORD_FILE)
        write_atomically(password_file, secrets.token_urlsafe(18) + "\n")
        create_person(
            settings,
            LOCAL_ADMIN_EMAIL,
            password=password_file.read_text(encoding="ascii").strip(),
            name="Local admin",
            organization=LOCAL_ADMIN,
            role="admin",
            is_platform_admin=True,
        )


def _answers(database_url: str) -> bool:
    import psycopg

    try:
        with psycopg.connect(database_url, connect_timeout=5, autocommit=True) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def main() -> None:
    """Read the arguments and the settings, and take the steps. Exit with 1 and one plain line if a step fails."""
    parser = argparse.ArgumentParser(description="Prepare the database of the local stack.")
    parser.add_argument("--api-key-file", type=Path, required=True)
    parser.add_argument("--postgres-directory", type=Path)
    arguments = parser.parse_args()
    try:
        take_first_steps(read_settings(), arguments.api_key_file, arguments.postgres_directory)
    except TaskmillError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
