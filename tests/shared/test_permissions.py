"""The table of permissions is consistent: roles rise, scopes fit roles, and what is seen has the same reach everywhere."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest

from shared.permissions import (
    ORGANIZATION_ROLES,
    PLATFORM_ROLES,
    ROLE_SCOPES,
    RULES,
    SCOPES,
    Permission,
    Scope,
    allowed_scopes,
    find_grants,
    list_allowed,
    lower_platform_role,
    lower_role,
)


def test_every_permission_has_a_rule_and_every_scope_a_meaning() -> None:
    assert set(SCOPES) == set(get_args(Scope))
    assert set(RULES) == set(Permission)


def test_each_role_may_do_what_the_role_before_it_may() -> None:
    for lower, higher in pairwise(ORGANIZATION_ROLES):
        assert find_grants(lower, None).own < find_grants(higher, None).own
        assert set(ROLE_SCOPES[lower]) <= set(ROLE_SCOPES[higher])
    assert find_grants(None, "operator").everywhere < find_grants(None, "admin").everywhere


@pytest.mark.parametrize("role", ORGANIZATION_ROLES)
def test_a_role_in_an_organization_reaches_no_other(role: str) -> None:
    assert find_grants(role, None).everywhere == frozenset()


def test_a_role_may_have_the_scopes_that_its_permissions_need() -> None:
    for name, rule in RULES.items():
        for role in rule.roles:
            assert rule.scope in (None, *allowed_scopes(role, None)), (name, role)
        for platform_role in rule.platform_roles:
            assert rule.scope in (None, *allowed_scopes(None, platform_role)), (name, platform_role)


def test_who_sees_the_tasks_of_all_organizations_sees_their_other_things_too() -> None:
    # `Caller.visible_organization_id` is the same for all of them.
    for name in ("tasks.read_content", "files.read", "schedules.read", "webhooks.read"):
        assert RULES[Permission(name)].platform_roles == RULES[Permission.TASKS_READ].platform_roles


def test_without_its_scope_a_role_gives_nothing() -> None:
    assert list_allowed("admin", "admin", frozenset()) == frozenset()
    assert Permission.TASKS_READ in list_allowed("viewer", None, frozenset({"tasks:read"}))
    assert Permission.KEYS_MANAGE_OWN in list_allowed("admin", None, frozenset({"admin"}))
    assert Permission.KEYS_MANAGE not in list_allowed("client", None, frozenset({"admin"}))


def test_the_lower_of_two_roles_may_do_less() -> None:
    assert lower_role("admin", "viewer") == "viewer"
    assert lower_platform_role("admin", "operator") == "operator"
    assert {lower_platform_role(role, None) for role in PLATFORM_ROLES} == {None}
