"""The commands for API keys: `keys create`, `keys list`, `keys rotate`, `keys revoke`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.options import AsJson, StackDir, read_settings_of, split_commas

if TYPE_CHECKING:
    from shared.api_keys import CreatedKey

app = typer.Typer(help="Create, list, rotate and revoke API keys.", no_args_is_help=True)


class Role(StrEnum):
    """What a key may do. `docs/permissions.md` explains the roles."""

    VIEWER = "viewer"
    CLIENT = "client"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="The caller that the key is for: a person or a program.")],
    role: Annotated[Role, typer.Option(help="What the key may do.")] = Role.CLIENT,
    scopes: Annotated[
        str | None, typer.Option(help="The scopes of the key, separated by commas. Default: all scopes of the role.")
    ] = None,
    organization: Annotated[
        str | None, typer.Option(help="The organization of a new caller. Default: one with the name of the caller.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it expires: `90d`, `12h`, or a date such as `2027-06-30` (UTC).")
    ] = None,
    organization_only: Annotated[
        bool,
        typer.Option(
            "--organization-only",
            help="Let the role hold for the organization alone. Without this, operators and admins reach every organization.",
        ),
    ] = False,
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="A network from which the key is accepted, such as `203.0.113.0/24`; may be repeated. Default: all."
        ),
    ] = None,
    as_json: AsJson = False,
    data_dir: StackDir = None,
) -> None:
    """Create an API key and print it. It cannot be shown again."""
    from datetime import UTC, datetime

    from shared import api_keys

    chosen = split_commas(scopes) if scopes is not None else None
    try:
        expires_at = api_keys.read_expiry(expires, datetime.now(UTC)) if expires is not None else None
        created = api_keys.create_key(
            read_settings_of(data_dir),
            name,
            role.value,
            chosen,
            organization,
            expires_at,
            organization_only=organization_only,
            networks=network or None,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _print_created(created, as_json=as_json)


def _print_created(created: CreatedKey, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_plain(created)))
        return
    print(created.key)
    print(f"The key of {created.name} ({created.role}), id {created.id}: it cannot be shown again.", file=sys.stderr)


@app.command("rotate")
def rotate_key(
    key: Annotated[str, typer.Argument(help="The id of the key, or its prefix.")],
    overlap: Annotated[
        str,
        typer.Option(help="How long the old key is accepted beside the new one: `24h`, `2d`, or `0h` for not at all."),
    ] = "24h",
    as_json: AsJson = False,
    data_dir: StackDir = None,
) -> None:
    """Replace a key by a new one with the same rights, and print it. The old one is accepted for a while."""
    from shared import api_keys

    try:
        created = api_keys.replace_key(read_settings_of(data_dir), key, api_keys.read_overlap(overlap))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if created is None:
        print("There is no such key, or it is revoked or has expired: create a new one.", file=sys.stderr)
        raise typer.Exit(1)
    _print_created(created, as_json=as_json)


@app.command("list")
def list_keys(as_json: AsJson = False, data_dir: StackDir = None) -> None:
    """List all keys, without their secrets."""
    from rich.console import Console
    from rich.table import Table

    from shared import api_keys

    rows = [_plain(row) for row in api_keys.list_keys(read_settings_of(data_dir))]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("prefix", "name", "role", "created", "last used", "state")
    table.columns[0].no_wrap = True
    for row in rows:
        of = row["organization"]
        table.add_row(
            row["prefix"],
            row["name"] if of == row["name"] else f"{row['name']}\nof {of}",
            "\n".join([_role_name(row), *(row["scopes"] if _has_fewer_scopes(row) else [])]),
            _minute(row["created_at"]),
            "\n".join([_minute(row["last_used_at"]), *filter(None, [row["last_used_network"]])]),
            _key_state(row),
        )
    Console().print(table)


def _minute(moment: str | None) -> str:
    """Return a moment as date and time in UTC, to the minute."""
    from datetime import UTC, datetime

    return "never" if moment is None else f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M}"


def _role_name(key: dict[str, Any]) -> str:
    """Return the role of a key; of an operator or admin of one organization, with that."""
    is_of_one = key["role"] in {"operator", "admin"} and key["platform_role"] is None
    return f"{key['role']} of its organization" if is_of_one else str(key["role"])


def _has_fewer_scopes(key: dict[str, Any]) -> bool:
    from shared.permissions import DEFAULT_SCOPES

    return set(key["scopes"]) != set(DEFAULT_SCOPES[key["role"]])


def _key_state(key: dict[str, Any]) -> str:
    """Return whether a key is valid, in one word or two. The JSON has the times."""
    from datetime import UTC, datetime

    if key["revoked_at"]:
        return "revoked"
    if key["expires_at"] is None:
        return "valid"
    expires_at = datetime.fromisoformat(key["expires_at"])
    return f"until {expires_at:%Y-%m-%d}" if expires_at > datetime.now(UTC) else "expired"


@app.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The id of the key, or its prefix.")], data_dir: StackDir = None
) -> None:
    """Revoke a key. Requests with it are refused from now on."""
    from shared import api_keys

    if not api_keys.revoke_key(read_settings_of(data_dir), key):
        print("There is no such key, or it was revoked before.", file=sys.stderr)
        raise typer.Exit(1)
    print("Revoked.", file=sys.stderr)


def _plain(row: Any) -> dict[str, Any]:
    """Return a record as JSON values: identifiers and times as text, sets as sorted lists."""
    from dataclasses import asdict

    return {name: _plain_value(value) for name, value in asdict(row).items()}


def _plain_value(value: object) -> object:
    from datetime import datetime

    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else str(value)
