"""What a caller may grant to a key: never more than the caller has."""

from __future__ import annotations

from uuid import UUID

from api.auth.caller import Caller
from api.http.problems import Problem, invalid
from api.keys.key_models import KeyFields
from shared.api_keys import KeyGrant, StoredKey, read_networks
from shared.permissions import (
    DEFAULT_SCOPES,
    OrganizationRole,
    Permission,
    allowed_scopes,
    expand_scopes,
    lower_platform_role,
    lower_role,
)


def role_in(caller: Caller, organization_id: UUID) -> OrganizationRole:
    """Return the role up to which the caller may grant in an organization.

    Who manages the keys of every organization may grant all that an organization's admin may.
    """
    if caller.allows(Permission.KEYS_MANAGE) and caller.reach_of(Permission.KEYS_MANAGE) is None:
        return "admin"
    return caller.role if organization_id == caller.organization_id else "viewer"


def read_grant(fields: KeyFields, caller: Caller, organization_id: UUID) -> KeyGrant:
    """Return what a new key may do, with what the body leaves out. Raises a problem for what is more than the caller has."""
    own_role = role_in(caller, organization_id)
    role = fields.role or lower_role("client", own_role)
    having = expand_scopes(caller.scopes)
    if fields.scopes is None:
        scopes = tuple(scope for scope in DEFAULT_SCOPES[role] if scope in having)
    else:
        scopes = tuple(dict.fromkeys(fields.scopes))
    grant = KeyGrant(
        role,
        fields.platform_role,
        scopes,
        fields.expires_at or caller.expires_at,
        read_networks(fields.networks) if fields.networks is not None else caller.networks,
    )
    for position, scope in enumerate(scopes):
        if scope not in allowed_scopes(role, grant.platform_role):
            message = f"The role {grant.platform_role or role} does not have this scope. Choose another role or scope."
            raise invalid(f"/scopes/{position}", "scope_of_role", message)
    require_grantable(grant, caller, own_role)
    return grant


def read_stored_grant(key: StoredKey) -> KeyGrant:
    """Return what a stored key may do."""
    networks = None if key.networks is None else tuple(key.networks)
    return KeyGrant(key.role, key.platform_role, tuple(key.scopes), key.expires_at, networks)


def require_grantable(grant: KeyGrant, caller: Caller, own_role: OrganizationRole) -> None:
    """Raise the problem `forbidden` if a key would do more than the caller, do it longer, or from elsewhere."""
    if lower_role(grant.role, own_role) != grant.role:
        raise _beyond(f"the role {grant.role}, and yours is {own_role}")
    if lower_platform_role(grant.platform_role, caller.platform_role) != grant.platform_role:
        raise _beyond(f"the platform role {grant.platform_role}, and yours is {caller.platform_role or 'none'}")
    if beyond := set(grant.scopes) - expand_scopes(caller.scopes):
        raise _beyond(f"the scopes {', '.join(sorted(beyond))}, which the key of this request has not")
    if caller.expires_at is not None and (grant.expires_at is None or grant.expires_at > caller.expires_at):
        raise _beyond("a longer life than the key of this request")
    if caller.networks is not None and not _are_within(grant, caller):
        raise _beyond("networks beyond those of the key of this request")


def _are_within(grant: KeyGrant, caller: Caller) -> bool:
    return grant.networks is not None and all(
        any(inner.version == outer.version and inner.subnet_of(outer) for outer in caller.networks or ())  # type: ignore[arg-type]
        for inner in grant.networks
    )


def _beyond(what: str) -> Problem:
    return Problem("forbidden", f"A key can never do more than the one who makes it: it would have {what}.")
