"""The commands for limits: `limits show`, `limits set`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.options import StackDir, read_settings_of

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from sqlalchemy import Connection

    from shared.limits import Limits, Scope

app = typer.Typer(help="Show and set what organizations, people and services may use.", no_args_is_help=True)
Organization = Annotated[str, typer.Argument(help="The organization, by its name or id.")]
Caller = Annotated[
    str | None, typer.Option("--caller", help="A person or service of the organization, by its name or id.")
]


@app.command("show")
def show_limits(organization: Organization, caller: Caller = None, data_dir: StackDir = None) -> None:
    """Print the limits that an organization, or a person or service in it, has itself, as JSON."""
    with _transaction(data_dir) as connection:
        _, subject_id, scope = _find_subject(connection, organization, caller)
        print(json.dumps(_list_own(connection, subject_id, scope).given(), indent=2))


@app.command("set")
def set_limits(
    organization: Organization,
    limits: Annotated[
        str,
        typer.Argument(
            help="All limits, as JSON, such as '{\"tasks_per_day\": 10000}'. A limit that is left out is that of the settings; "
            "null means no limit. docs/production.md lists them."
        ),
    ],
    caller: Caller = None,
    data_dir: StackDir = None,
) -> None:
    """Replace the limits of an organization, or of a person or service in it. They are in force within a second."""
    from pydantic import ValidationError

    from shared.audit.actions import AuditAction
    from shared.audit.entries import COMMAND_LINE, Entry, write_entry
    from shared.limit_targets import list_unknown_targets
    from shared.limits import Limits
    from shared.queries import limits as queries

    try:
        wanted = Limits.model_validate_json(limits, strict=True)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'the text'}: {item['msg']}" for item in error.errors())
        raise typer.BadParameter(found, param_hint="LIMITS") from None
    if unknown := [target.message for target in list_unknown_targets(wanted)]:
        raise typer.BadParameter(" ".join(unknown), param_hint="LIMITS")
    with _transaction(data_dir) as connection:
        organization_id, subject_id, scope = _find_subject(connection, organization, caller)
        before = _list_own(connection, subject_id, scope)
        for statement, parameters in queries.replace_limits(subject_id, scope, wanted):
            connection.exec_driver_sql(statement, parameters)
        whose = {} if scope == "organization" else {"caller_id": str(subject_id)}
        entry = Entry(
            COMMAND_LINE,
            AuditAction.QUOTA_CHANGED,
            organization_id,
            organization_id,
            before={**whose, "limits": before.for_audit()},
            after={**whose, "limits": wanted.for_audit()},
        )
        write_entry(connection, entry)
    print("The limits are stored, and in force within a second.")


@contextmanager
def _transaction(data_dir: Path | None) -> Iterator[Connection]:
    from shared.database.connections import make_engine

    engine = make_engine(read_settings_of(data_dir), "limits")
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _find_subject(connection: Connection, organization: str, caller: str | None) -> tuple[UUID, UUID, Scope]:
    """Return the organization, and whose limits are meant."""
    from shared.queries import limits as queries

    found = connection.exec_driver_sql(queries.FIND_ORGANIZATION_BY_NAME, {"name": organization}).scalar_one_or_none()
    if found is None:
        raise typer.BadParameter(f"There is no organization {organization}.", param_hint="ORGANIZATION")
    organization_id: UUID = found
    if caller is None:
        return organization_id, organization_id, "organization"
    parameters = {"organization_id": organization_id, "name": caller}
    caller_id = connection.exec_driver_sql(queries.FIND_CALLER_BY_NAME, parameters).scalar_one_or_none()
    if caller_id is None:
        raise typer.BadParameter(f"{organization} has no person or service {caller}.", param_hint="--caller")
    return organization_id, caller_id, "caller"


def _list_own(connection: Connection, subject_id: UUID, scope: Scope) -> Limits:
    from shared.limits import Limits
    from shared.queries.limits import LIST_LIMITS

    return Limits.of_rows(connection.exec_driver_sql(LIST_LIMITS, {"subject_id": subject_id, "scope": scope}).all())
