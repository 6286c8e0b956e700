"""The caller of a request, and what it may do by the table in `shared/permissions.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from uuid import UUID

from api.http.problems import Problem
from shared.permissions import (
    RULES,
    Grants,
    OrganizationRole,
    Permission,
    PlatformRole,
    allowed_scopes,
    expand_scopes,
    find_grants,
    list_allowed,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, with which roles and scopes.

    A route requires permissions with `require`, which compares scopes and roles. Whatever concerns one stored thing is asked
    with `has_for` and `require_for`, by the organization of the thing.
    """

    key_id: UUID | None
    """The API key, or None for a person with an access token."""
    key_prefix: str
    """The prefix of the key, or `session:` and the id of the session: what logs show, and what stream tokens name."""
    key_name: str
    owner_id: UUID
    """The id in `callers`: the owner of what the caller submits and uploads."""
    owner_name: str
    organization_id: UUID
    role: OrganizationRole
    """The role in the organization."""
    platform_role: PlatformRole | None
    """The role on the platform, which reaches every organization, or None."""
    scopes: frozenset[str]
    person_id: UUID | None = None
    """The person, or None for a service."""
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    """The networks from which the key is accepted, or None for all."""
    expires_at: datetime | None = None
    """When the key expires, or None."""
    session_id: UUID | None = None
    """The session of an access token, or None for a request with an API key."""
    rate_key: str = field(init=False)
    """The key by which the rate limits count requests: the class of limits and the caller's id."""
    _grants: Grants = field(init=False, repr=False, compare=False)
    _allowed: frozenset[Permission] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find what the roles give and the scopes allow, once for all requests of a cached caller."""
        limits = "client" if self.platform_role is None else "privileged"
        object.__setattr__(self, "rate_key", f"{limits}:{self.owner_id}")
        object.__setattr__(self, "_grants", find_grants(self.role, self.platform_role))
        object.__setattr__(self, "_allowed", list_allowed(self.role, self.platform_role, self.scopes))

    @property
    def rights(self) -> tuple[UUID, OrganizationRole, PlatformRole | None, frozenset[str]]:
        """What decides what the caller may see and do. Of two callers with equal rights, neither may do more."""
        return self.organization_id, self.role, self.platform_role, self.scopes

    @property
    def visible_organization_id(self) -> UUID | None:
        """The organization whose tasks, files and other things the caller sees, or None for all organizations."""
        return self.reach_of(Permission.TASKS_READ)

    def reach_of(self, permission: Permission) -> UUID | None:
        """Return the only organization for which the caller may have a permission, or None if it has it for all."""
        return None if permission in self._grants.everywhere else self.organization_id

    def has(self, permission: Permission) -> bool:
        """Return whether the caller's roles give a permission for its own organization or for all."""
        return permission in self._grants.own

    def has_for(self, permission: Permission, organization_id: UUID) -> bool:
        """Return whether the caller's roles give a permission for what belongs to an organization."""
        return permission in self._grants.everywhere or (
            organization_id == self.organization_id and permission in self._grants.own
        )

    def allows(self, permission: Permission) -> bool:
        """Return whether the caller has a permission, for its own organization or for all, by its roles and scopes."""
        return permission in self._allowed

    def require(self, *permissions: Permission) -> None:
        """Raise the problem `forbidden` unless the caller has every one of the permissions, by its roles and scopes."""
        if not self._allowed.issuperset(permissions):
            raise self._refuse(permissions)

    def require_for(self, permission: Permission, organization_id: UUID) -> None:
        """Raise the problem `forbidden` unless the caller's roles give a permission for what belongs to an organization."""
        if not self.has_for(permission, organization_id):
            raise _forbidden_by_role(permission)

    def require_session(self) -> tuple[UUID, UUID]:
        """Return the ids of the person and of the session. Raises `sign-in-required` for a request with an API key."""
        if self.person_id is None or self.session_id is None:
            raise Problem("sign-in-required")
        return self.person_id, self.session_id

    def _refuse(self, permissions: tuple[Permission, ...]) -> Problem:
        """Return the problem that names the missing scopes (RFC 6750, section 3.1), or else the missing permission."""
        scopes = [scope for permission in permissions if (scope := RULES[permission].scope) is not None]
        lacking = set(scopes) - expand_scopes(self.scopes)
        if lacking and lacking.issubset(allowed_scopes(self.role, self.platform_role)):
            needed = " ".join(dict.fromkeys(scopes))
            return Problem(
                "forbidden",
                f"The key or token lacks a scope. This route needs: {needed}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
            )
        return _forbidden_by_role(next(name for name in permissions if name not in self._allowed))


def _forbidden_by_role(permission: Permission) -> Problem:
    rule = RULES[permission]
    having = []
    if rule.roles:
        having.append(f"the roles {', '.join(rule.roles)} in the organization that it belongs to")
    if rule.platform_roles:
        having.append(f"the platform roles {', '.join(rule.platform_roles)}")
    return Problem(
        "forbidden", f"Your role does not allow this. The permission {permission} belongs to {' and to '.join(having)}."
    )
