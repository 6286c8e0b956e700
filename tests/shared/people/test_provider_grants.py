"""What claims of a provider give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.people.provider_grants import Granted, UnusableGrants, apply_grants, parse_grants


def grants_of(claims: dict[str, Any], *rules: dict[str, Any]) -> Granted:
    return apply_grants(parse_grants(json.dumps(rules)), claims)


@pytest.mark.parametrize(
    ("claims", "claim", "value"),
    [
        ({"groups": ["a", "it"]}, "groups", "it"),
        ({"groups": "it"}, "groups", "it"),
        ({"level": 3}, "level", "3"),
        ({"staff": True}, "staff", "true"),
        ({"realm_access": {"roles": ["it"]}}, "realm_access.roles", "it"),
        ({"https://example.com/roles": ["it"]}, "https://example.com/roles", "it"),
    ],
)
def test_a_claim_that_has_the_value_gives_the_role(claims: dict[str, Any], claim: str, value: str) -> None:
    rule = {"claim": claim, "value": value, "organization": "Acme", "role": "operator"}

    assert grants_of(claims, rule).roles == {"Acme": "operator"}
    assert grants_of({}, rule) == Granted({}, None, frozenset({"Acme"}), decides_platform_role=False)
    assert grants_of({"groups": {"it": 1}, "realm_access": "it", "level": [[3], None]}, rule).roles == {}


def test_the_highest_role_counts_and_a_rule_without_a_value_holds_for_everybody() -> None:
    found = grants_of(
        {"groups": ["it", "leads"]},
        {"value": "leads", "organization": "Acme", "role": "admin"},
        {"value": "it", "organization": "Acme", "role": "viewer"},
        {"organization": "All", "role": "client"},
        {"value": "it", "platform_role": "operator"},
        {"value": "leads", "platform_role": "admin"},
    )

    assert (found.roles, found.platform_role) == ({"Acme": "admin", "All": "client"}, "admin")
    assert found.is_something and found.decides_platform_role


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[" * 100_000,
        '[{"organization": "Acme"}]',
        '[{"role": "viewer"}]',
        '[{"organization": "Acme", "role": "viewer", "platform_role": "admin"}]',
        '[{"organization": "Acme", "role": "owner"}]',
        '[{"value": "it"}]',
        '[{"value": "it", "platform_role": "admin", "colour": "blue"}]',
    ],
)
def test_rules_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UnusableGrants):
        parse_grants(text)
