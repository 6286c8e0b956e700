"""`GET /kinds` lists the kinds that the caller may submit."""

from __future__ import annotations

from typing import Any

import httpx2
import jsonschema
import pytest

FIELDS = [
    *("kind", "queue", "title", "description", "params_schema", "result_schema", "max_attempts", "timeout"),
    *("available", "reason"),
]
FOR_EVERYONE = ["email.send", "files.extract_text", "files.inspect", "files.make_images", "reports.run"]


def kinds_of(client: httpx2.Client) -> dict[str, dict[str, Any]]:
    answer = client.get("/kinds")
    assert answer.status_code == 200
    assert list(answer.json()) == ["items"]
    return {item["kind"]: item for item in answer.json()["items"]}


def test_a_client_sees_only_the_kinds_that_it_may_submit(client: httpx2.Client) -> None:
    assert sorted(kinds_of(client)) == FOR_EVERYONE


def test_operators_and_admins_also_see_privileged_kinds(operator: httpx2.Client, admin: httpx2.Client) -> None:
    assert sorted(kinds_of(operator)) == sorted(kinds_of(admin)) == sorted([*FOR_EVERYONE, "platform.ping"])


def test_a_kind_has_every_field_of_the_contract(operator: httpx2.Client) -> None:
    for kind in kinds_of(operator).values():
        assert list(kind) == FIELDS
        assert kind["queue"] in {"email", "files", "reports"}
        assert kind["title"] and kind["description"]
        assert kind["max_attempts"] >= 1 and kind["timeout"] >= 1
        assert (kind["available"], kind["reason"]) == (True, None)


@pytest.mark.parametrize("schema", ["params_schema", "result_schema"])
def test_the_schemas_of_a_kind_are_valid_without_outside_references(operator: httpx2.Client, schema: str) -> None:
    for kind in kinds_of(operator).values():
        jsonschema.Draft202012Validator.check_schema(kind[schema])
        assert "$ref" not in str(kind[schema])
        assert kind[schema]["additionalProperties"] is False


def test_params_are_accepted_if_and_only_if_the_schema_allows_them(operator: httpx2.Client) -> None:
    schema = kinds_of(operator)["platform.ping"]["params_schema"]
    allowed: list[dict[str, Any]] = [{}, {"echo": "x"}, {"sleep_ms": 60_000}, {"queue": "email"}]
    forbidden: list[dict[str, Any]] = [
        {"ecko": "x"},
        {"sleep_ms": 60_001},
        {"queue": "maintenance"},
        {"echo": "x" * 1001},
    ]

    for params in allowed + forbidden:
        answer = operator.post("/tasks?validate_only=true", json={"kind": "platform.ping", "params": params})
        fits = jsonschema.Draft202012Validator(schema).is_valid(params)
        assert (answer.status_code == 200) == fits == (params in allowed)
