"""Makes the tables of `docs/permissions.md` from the code: `python -m api.openapi.permission_tables` writes them.

A test fails while the document differs from what this module makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from fastapi.routing import APIRoute, APIWebSocketRoute

from api.auth.route_permissions import list_permissions, needs_person
from shared.permissions import ORGANIZATION_ROLES, PLATFORM_ROLES, ROLE_SCOPES, RULES, SCOPES, THINGS

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "permissions.md"
BEGIN: Final = "<!-- The tables below are made by `python -m api.openapi.permission_tables`. Do not edit them. -->\n"


def render_tables(routes: Iterable[APIRoute | APIWebSocketRoute]) -> str:
    """Return the part of the document that is made from the code."""
    return "\n".join(
        [
            BEGIN,
            "## What belongs to whom\n",
            *_table(
                ["things", "belong to"], [[thing.name, _owner_of(thing.belongs_to, thing.is_built)] for thing in THINGS]
            ),
            "## Permissions\n",
            *_table(
                [
                    "permission",
                    "allows to",
                    "scope",
                    *ORGANIZATION_ROLES,
                    *(f"platform {name}" for name in PLATFORM_ROLES),
                ],
                [
                    [
                        f"`{name}`",
                        rule.description,
                        f"`{rule.scope}`" if rule.scope is not None else "any",
                        *(_mark(role in rule.roles) for role in ORGANIZATION_ROLES),
                        *(_mark(role in rule.platform_roles) for role in PLATFORM_ROLES),
                    ]
                    for name, rule in RULES.items()
                ],
            ),
            "## Scopes\n",
            *_table(
                ["scope", "for", "roles that may have it"],
                [
                    [f"`{scope}`", text, ", ".join(role for role in ORGANIZATION_ROLES if scope in ROLE_SCOPES[role])]
                    for scope, text in SCOPES.items()
                ],
            ),
            "## Routes\n",
            *_table(["route", "needs"], [_describe_route(route) for route in sorted(routes, key=_by_path)]),
        ]
    )


def _owner_of(belongs_to: str, is_built: bool) -> str:
    return f"the {belongs_to}" if is_built else f"the {belongs_to} (there are none yet)"


def _mark(has: bool) -> str:
    return "yes" if has else ""


def _by_path(route: APIRoute | APIWebSocketRoute) -> tuple[str, list[str]]:
    return route.path, sorted(getattr(route, "methods", None) or ())


def _describe_route(route: APIRoute | APIWebSocketRoute) -> list[str]:
    method = " ".join(sorted(route.methods or ())) if isinstance(route, APIRoute) else "WebSocket"
    needed = [f"`{name}`" for name in list_permissions(route)]
    if needs_person(route):
        needed.append("the access token of the person")
    return [f"`{method} {route.path}`", ", ".join(needed) or "nothing"]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def main() -> None:
    """Write the tables into the document."""
    from api.app import ROUTERS

    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute | APIWebSocketRoute)]
    written = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[0]
    DOCUMENT.write_text(written + render_tables(routes), encoding="utf-8")


if __name__ == "__main__":
    main()
