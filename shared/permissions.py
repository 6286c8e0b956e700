"""The one table of what callers may do: which scope and which roles each permission needs.

A caller has a role in its organization, and may have a platform role besides. A permission that a role gives holds for what
belongs to the caller's own organization; one that a platform role gives holds for every organization. A key or token also has
scopes, without which its roles give nothing. `docs/permissions.md` shows the table, and is made from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Final, Literal, NamedTuple

OrganizationRole = Literal["viewer", "client", "operator", "admin"]
PlatformRole = Literal["operator", "admin"]
Scope = Literal["tasks:read", "tasks:write", "files:read", "files:write", "keys:write", "admin"]
ORGANIZATION_ROLES: Final[tuple[OrganizationRole, ...]] = ("viewer", "client", "operator", "admin")
"""The roles in an organization. Each may do what those before it may."""
PLATFORM_ROLES: Final[tuple[PlatformRole, ...]] = ("operator", "admin")
"""The roles on the platform. An admin may do what an operator may."""

SCOPES: Final[dict[Scope, str]] = {
    "tasks:read": "See tasks and what belongs to them, such as batches, workflows, schedules and webhooks.",
    "tasks:write": "Submit, cancel, retry and delete tasks, and manage schedules and webhooks.",
    "files:read": "List and download files.",
    "files:write": "Upload and delete files.",
    "keys:write": "Make, list, rotate and revoke one's own API keys.",
    "admin": "Manage the organization or the platform, as far as the role goes. It includes `keys:write`.",
}
"""What each scope is for. Clients see it where they ask for scopes."""
_INCLUDED: Final[dict[str, tuple[str, ...]]] = {"admin": ("keys:write",)}
ROLE_SCOPES: Final[dict[str, tuple[str, ...]]] = {
    "viewer": ("tasks:read", "keys:write"),
    "client": ("tasks:read", "tasks:write", "files:read", "files:write", "keys:write"),
    "operator": ("tasks:read", "tasks:write", "files:read", "files:write", "keys:write"),
    "admin": tuple(SCOPES),
}
"""The scopes that a role allows, in an organization or on the platform."""
DEFAULT_SCOPES: Final[dict[str, tuple[str, ...]]] = {
    **{role: tuple(scope for scope in scopes if scope != "keys:write") for role, scopes in ROLE_SCOPES.items()},
    "admin": tuple(SCOPES),
}
"""The scopes of a key that is made without naming any. `keys:write` must be asked for: what a leaked key makes outlives it."""


class Permission(StrEnum):
    """The name of what a caller may do."""

    TASKS_READ = "tasks.read"
    TASKS_READ_CONTENT = "tasks.read_content"
    TASKS_READ_ORIGIN = "tasks.read_origin"
    TASKS_SUBMIT = "tasks.submit"
    TASKS_SUBMIT_PLATFORM_KINDS = "tasks.submit_platform_kinds"
    TASKS_ACT = "tasks.act"
    TASKS_DELETE = "tasks.delete"
    FILES_READ = "files.read"
    FILES_UPLOAD = "files.upload"
    FILES_DELETE = "files.delete"
    SCHEDULES_READ = "schedules.read"
    SCHEDULES_MANAGE = "schedules.manage"
    WEBHOOKS_READ = "webhooks.read"
    WEBHOOKS_MANAGE = "webhooks.manage"
    KINDS_READ = "kinds.read"
    KINDS_PAUSE = "kinds.pause"
    QUEUES_READ = "queues.read"
    QUEUES_PAUSE = "queues.pause"
    WORKERS_READ = "workers.read"
    METRICS_READ = "metrics.read"
    KEYS_MANAGE_OWN = "keys.manage_own"
    KEYS_MANAGE = "keys.manage"
    MEMBERS_MANAGE = "members.manage"
    ORGANIZATIONS_MANAGE = "organizations.manage"
    USERS_MANAGE = "users.manage"
    OVERVIEW_READ = "overview.read"
    AUDIT_READ = "audit.read"
    USAGE_READ = "usage.read"
    QUOTAS_MANAGE = "quotas.manage"


class Rule(NamedTuple):
    """What a permission needs."""

    description: str
    scope: str | None
    """The scope that the key or token must have, or None if any key or token will do."""
    roles: tuple[OrganizationRole, ...]
    """The roles that have it for what belongs to their own organization."""
    platform_roles: tuple[PlatformRole, ...]
    """The platform roles that have it for what belongs to any organization, or to the platform."""


_EVERYONE: Final = ORGANIZATION_ROLES
_CLIENTS: Final = ORGANIZATION_ROLES[1:]
_OPERATORS: Final = ORGANIZATION_ROLES[2:]
_ADMINS: Final = ORGANIZATION_ROLES[3:]
_NOBODY: Final = ORGANIZATION_ROLES[4:]
_PLATFORM: Final = PLATFORM_ROLES
_PLATFORM_ADMINS: Final = PLATFORM_ROLES[1:]
_NO_PLATFORM: Final = PLATFORM_ROLES[2:]

RULES: Final[dict[Permission, Rule]] = {
    Permission.TASKS_READ: Rule(
        "See the status of tasks, batches and workflows, and count them.", "tasks:read", _EVERYONE, _PLATFORM
    ),
    Permission.TASKS_READ_CONTENT: Rule(
        "See the params, result, error details, log, metadata and artifacts of tasks.",
        "tasks:read",
        _CLIENTS,
        _PLATFORM,
    ),
    Permission.TASKS_READ_ORIGIN: Rule(
        "See who submitted a task, with which key, and which worker runs it.", "tasks:read", _OPERATORS, _PLATFORM
    ),
    Permission.TASKS_SUBMIT: Rule(
        "Submit tasks, batches, workflows, reports and emails.", "tasks:write", _CLIENTS, _NO_PLATFORM
    ),
    Permission.TASKS_SUBMIT_PLATFORM_KINDS: Rule(
        "Submit and retry kinds of the platform, such as `platform.ping`.", "tasks:write", _NOBODY, _PLATFORM
    ),
    Permission.TASKS_ACT: Rule("Cancel and retry tasks.", "tasks:write", _CLIENTS, _PLATFORM),
    Permission.TASKS_DELETE: Rule("Delete tasks and workflows.", "tasks:write", _CLIENTS, _PLATFORM_ADMINS),
    Permission.FILES_READ: Rule("List and download files.", "files:read", _CLIENTS, _PLATFORM),
    Permission.FILES_UPLOAD: Rule("Upload files.", "files:write", _CLIENTS, _NO_PLATFORM),
    Permission.FILES_DELETE: Rule("Delete files.", "files:write", _CLIENTS, _PLATFORM_ADMINS),
    Permission.SCHEDULES_READ: Rule("See schedules.", "tasks:read", _CLIENTS, _PLATFORM),
    Permission.SCHEDULES_MANAGE: Rule(
        "Create, change, run and delete schedules.", "tasks:write", _CLIENTS, _PLATFORM_ADMINS
    ),
    Permission.WEBHOOKS_READ: Rule("See endpoints and deliveries of webhooks.", "tasks:read", _CLIENTS, _PLATFORM),
    Permission.WEBHOOKS_MANAGE: Rule(
        "Manage endpoints and secrets of webhooks, and deliver again.", "tasks:write", _CLIENTS, _PLATFORM_ADMINS
    ),
    Permission.KINDS_READ: Rule("List the kinds of tasks.", "tasks:read", _EVERYONE, _PLATFORM),
    Permission.KINDS_PAUSE: Rule("Pause and resume kinds.", "tasks:write", _NOBODY, _PLATFORM),
    Permission.QUEUES_READ: Rule("See what waits and runs in queues.", "tasks:read", _NOBODY, _PLATFORM),
    Permission.QUEUES_PAUSE: Rule("Pause and resume queues.", "tasks:write", _NOBODY, _PLATFORM),
    Permission.WORKERS_READ: Rule("See the workers.", "tasks:read", _NOBODY, _PLATFORM),
    Permission.METRICS_READ: Rule("Read metrics.", "tasks:read", _NOBODY, _PLATFORM),
    Permission.KEYS_MANAGE_OWN: Rule(
        "Make, list, rotate and revoke one's own API keys.", "keys:write", _EVERYONE, _NO_PLATFORM
    ),
    Permission.KEYS_MANAGE: Rule(
        "Make, list, rotate and revoke the API keys of others.", "admin", _ADMINS, _PLATFORM_ADMINS
    ),
    Permission.MEMBERS_MANAGE: Rule(
        "List, add and remove the members of an organization, and change their roles.",
        "admin",
        _ADMINS,
        _PLATFORM_ADMINS,
    ),
    Permission.ORGANIZATIONS_MANAGE: Rule(
        "Create, list, rename and disable organizations.", "admin", _NOBODY, _PLATFORM_ADMINS
    ),
    Permission.USERS_MANAGE: Rule(
        "Invite, list and disable people, and change their platform role.", "admin", _NOBODY, _PLATFORM_ADMINS
    ),
    Permission.OVERVIEW_READ: Rule("See the overview of the platform.", "admin", _NOBODY, _PLATFORM_ADMINS),
    Permission.AUDIT_READ: Rule("Read the audit log.", "admin", _ADMINS, _PLATFORM_ADMINS),
    Permission.USAGE_READ: Rule("See what is used and what is allowed.", "tasks:read", _EVERYONE, _PLATFORM),
    Permission.QUOTAS_MANAGE: Rule("Change limits, quotas and weights.", "admin", _NOBODY, _PLATFORM_ADMINS),
}


class Thing(NamedTuple):
    """A kind of thing, and whom it belongs to."""

    name: str
    belongs_to: Literal["organization", "platform"]
    is_built: bool = True
    """Whether there are such things. If not, this is what will hold for them."""


THINGS: Final = (
    Thing("Tasks, batches and workflows", "organization"),
    Thing("Files", "organization"),
    Thing("Schedules", "organization"),
    Thing("Webhook endpoints, deliveries and the default secret", "organization"),
    Thing("Idempotency keys", "organization"),
    Thing("Members and API keys", "organization"),
    Thing("Organizations and people", "platform"),
    Thing("Kinds, queues, pauses and workers", "platform"),
    Thing("Metrics and the schedules of the platform itself", "platform"),
    Thing("Presets and templates", "organization", is_built=False),
    Thing("Data sources", "organization", is_built=False),
    Thing("Sender domains and suppressions", "organization", is_built=False),
)


class Grants(NamedTuple):
    """What roles give, whatever the scopes are."""

    own: frozenset[Permission]
    """What holds for the caller's own organization."""
    everywhere: frozenset[Permission]
    """What holds for every organization and for the platform."""


@lru_cache(maxsize=64)
def find_grants(role: str | None, platform_role: str | None) -> Grants:
    """Return what a role in an organization and a platform role give. Each may be None."""
    everywhere = frozenset(name for name, rule in RULES.items() if platform_role in rule.platform_roles)
    return Grants(everywhere.union(name for name, rule in RULES.items() if role in rule.roles), everywhere)


@lru_cache(maxsize=1024)
def list_allowed(role: str | None, platform_role: str | None, scopes: frozenset[str]) -> frozenset[Permission]:
    """Return the permissions that the roles give and the scopes allow."""
    having = expand_scopes(scopes)
    given = find_grants(role, platform_role).own
    return frozenset(name for name in given if RULES[name].scope is None or RULES[name].scope in having)


def expand_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Return scopes with those that they include."""
    chosen = frozenset(scopes)
    return chosen.union(*(_INCLUDED.get(scope, ()) for scope in chosen))


def allowed_scopes(role: str | None, platform_role: str | None) -> tuple[str, ...]:
    """Return the scopes that a role in an organization or a platform role allows, in the order of `SCOPES`."""
    allowed = {*ROLE_SCOPES.get(role or "", ()), *ROLE_SCOPES.get(platform_role or "", ())}
    return tuple(scope for scope in SCOPES if scope in allowed)


def lower_role(one: OrganizationRole, other: OrganizationRole) -> OrganizationRole:
    """Return the one of two roles in an organization that may do less."""
    return min(one, other, key=ORGANIZATION_ROLES.index)


def lower_platform_role(one: PlatformRole | None, other: PlatformRole | None) -> PlatformRole | None:
    """Return the one of two platform roles that may do less; None is less than any."""
    if one is None or other is None:
        return None
    return min(one, other, key=PLATFORM_ROLES.index)
