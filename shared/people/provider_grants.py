"""What the claims of a sign-in provider give: roles in organizations, and roles on the platform.

Grant      one rule of the setting `TASKMILL_OIDC_GRANTS`: who has a value in a claim has a role
Granted    what the rules give to the claims of one person
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from shared.permissions import ORGANIZATION_ROLES, PLATFORM_ROLES, OrganizationRole, PlatformRole

MAX_GRANTS: Final = 500


class UnusableGrants(ValueError):
    """A text that is no list of grants. The text of the error says why."""


class Grant(BaseModel):
    """Who has `value` in `claim` has `role` in `organization`, or `platform_role`. Without `value`, everybody has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claim: Annotated[str, Field(min_length=1, max_length=200)] = "groups"
    value: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    organization: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    role: OrganizationRole | None = None
    platform_role: PlatformRole | None = None

    @model_validator(mode="after")
    def _require_one_thing(self) -> Grant:
        if (self.organization is None) != (self.role is None) or (self.role is None) == (self.platform_role is None):
            raise ValueError("name either `organization` and `role`, or `platform_role`")
        return self


@dataclass(frozen=True)
class Granted:
    """What rules give to one person."""

    roles: dict[str, OrganizationRole]
    """The role by the name of the organization."""
    platform_role: PlatformRole | None
    organizations: frozenset[str]
    """Every organization that a rule names: of those, the person has the roles above and no others."""
    decides_platform_role: bool
    """Whether any rule names a platform role, so that the person has the one above or none."""

    @property
    def is_something(self) -> bool:
        """Whether the person gets a role."""
        return bool(self.roles) or self.platform_role is not None


_GRANTS: Final = TypeAdapter(tuple[Grant, ...])


def parse_grants(text: str) -> tuple[Grant, ...]:
    """Return the rules of a setting. Raises `UnusableGrants`."""
    try:
        grants = _GRANTS.validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "/".join(str(part) for part in first["loc"])
        raise UnusableGrants(f"{place or 'the list'}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise UnusableGrants("must be a JSON list of grants") from None
    if len(grants) > MAX_GRANTS:
        raise UnusableGrants(f"must have at most {MAX_GRANTS} grants")
    return grants


def apply_grants(grants: Iterable[Grant], claims: Mapping[str, Any]) -> Granted:
    """Return what rules give to the claims of a person. Of several roles for one thing, the highest counts."""
    roles: dict[str, OrganizationRole] = {}
    platform_role: PlatformRole | None = None
    organizations: set[str] = set()
    decides_platform_role = False
    for grant in grants:
        is_met = grant.value is None or grant.value in _list_values(claims, grant.claim)
        if grant.organization is not None and grant.role is not None:
            organizations.add(grant.organization)
            if is_met:
                roles[grant.organization] = max(
                    grant.role, roles.get(grant.organization, grant.role), key=ORGANIZATION_ROLES.index
                )
        elif grant.platform_role is not None:
            decides_platform_role = True
            if is_met:
                platform_role = max(grant.platform_role, platform_role or grant.platform_role, key=PLATFORM_ROLES.index)
    return Granted(roles, platform_role, frozenset(organizations), decides_platform_role)


def _list_values(claims: Mapping[str, Any], name: str) -> list[str]:
    """Return the values of a claim as texts. A name with dots that is no claim is a path, such as `realm_access.roles`."""
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    values = found if isinstance(found, list) else [found]
    return [json.dumps(value) if isinstance(value, bool) else str(value) for value in values if _is_plain(value)]


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float)
