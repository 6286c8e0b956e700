"""The commands for people: `users create`, `list`, `set-password`, `remove-second-factor` and `rotate-signing-key`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from cli.commands.options import AsJson, StackDir, read_settings_of

app = typer.Typer(help="Create and list people, and set their passwords.", no_args_is_help=True)


class MemberRole(StrEnum):
    """What a person may do in an organization. `docs/permissions.md` explains the roles."""

    VIEWER = "viewer"
    CLIENT = "client"
    OPERATOR = "operator"
    ADMIN = "admin"


PasswordFromInput = Annotated[
    bool,
    typer.Option("--password-stdin", help="Read the password from the first line of the input. Default: a random one."),
]


@app.command("create")
def create_user(
    email: Annotated[str, typer.Argument(help="The email address, by which the person signs in.")],
    admin: Annotated[
        bool, typer.Option("--admin", help="Make the person an admin of the platform, and of the organization.")
    ] = False,
    role: Annotated[MemberRole, typer.Option(help="The role in the organization.")] = MemberRole.CLIENT,
    organization: Annotated[
        str | None,
        typer.Option(
            help="The name of the organization, which is created if there is none. Default: one with the address as its name."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The name of the person.")] = None,
    password_stdin: PasswordFromInput = False,
    as_json: AsJson = False,
    data_dir: StackDir = None,
) -> None:
    """Create a person who can sign in at once, and print the password. It cannot be shown again."""
    from shared.people.creation import create_person

    try:
        person = create_person(
            read_settings_of(data_dir),
            email,
            password=_read_password() if password_stdin else None,
            name=name,
            organization=organization,
            role="admin" if admin else role.value,
            is_platform_admin=admin,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    password = None if password_stdin else person.password
    if as_json:
        shown = {
            "id": person.id,
            "email": person.email,
            "organization_id": person.organization_id,
            "password": password,
        }
        print(json.dumps({key: value if value is None else str(value) for key, value in shown.items()}))
        return
    if password is not None:
        print(password)
    print(f"{person.email} can sign in by POST /auth/token, or by Authorize at /docs.", file=sys.stderr)


@app.command("list")
def list_users(as_json: AsJson = False, data_dir: StackDir = None) -> None:
    """List people, newest first. `--json` shows their ids too."""
    from rich.console import Console
    from rich.table import Column, Table

    from shared.people.creation import list_people

    people = list_people(read_settings_of(data_dir))
    if as_json:
        print(json.dumps(people))
        return
    table = Table(Column("email", overflow="fold"), "platform role", "second factor", "last seen", "state")
    for person in people:
        row = (
            person["email"],
            person["platform_role"] or "",
            person["second_factor"],
            person["last_seen"],
        )
        table.add_row(*row, person["state"])
    Console().print(table)


@app.command("set-password")
def set_password(
    email: Annotated[str, typer.Argument(help="The email address of the person.")],
    password_stdin: PasswordFromInput = False,
    data_dir: StackDir = None,
) -> None:
    """Replace the password of a person, end all sessions, and print the password. A second factor stays."""
    from shared.people.creation import replace_password

    try:
        chosen = _read_password() if password_stdin else None
        password = replace_password(read_settings_of(data_dir), email, chosen)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not password_stdin:
        print(password)
    print("The password was replaced, and all sessions have ended.", file=sys.stderr)


@app.command("remove-second-factor")
def remove_factor(
    email: Annotated[str, typer.Argument(help="The email address of the person.")],
    data_dir: StackDir = None,
) -> None:
    """Delete the second factor of a person who has lost both the authenticator app and the recovery codes."""
    from shared.people.creation import remove_second_factor

    try:
        remove_second_factor(read_settings_of(data_dir), email)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    print("The password is enough now. The person can set up a new second factor by POST /auth/totp.", file=sys.stderr)


@app.command("rotate-signing-key")
def rotate_key(data_dir: StackDir = None) -> None:
    """Replace the key that signs access tokens. Tokens that the one before signed are accepted until they expire."""
    from shared.people.creation import rotate_now

    rotate_now(read_settings_of(data_dir))
    print("A new key signs access tokens. The one before is accepted for 16 more minutes.", file=sys.stderr)


def _read_password() -> str:
    return sys.stdin.readline().rstrip("\r\n")
