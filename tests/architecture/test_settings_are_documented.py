"""Each setting has a description, is in .env.example and the table of the README, and is passed to the containers."""

from __future__ import annotations

from pathlib import Path

from deploy.settings_reference import (
    REQUIRED_BY_COMPOSE,
    SET_BY_COMPOSE,
    env_example,
    markdown_table,
    variable,
)
from deploy.validate import check_settings_are_passed_on
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_each_setting_has_a_description() -> None:
    undescribed = [
        name for name, field in Settings.model_fields.items() if not (field.description or "").endswith((".", ")"))
    ]

    assert undescribed == []


def test_the_example_file_is_generated_from_the_settings() -> None:
    found = (ROOT / ".env.example").read_text(encoding="utf-8")

    assert found == env_example(), "generate it again: python -m deploy.settings_reference env > .env.example"


def test_the_readme_has_the_table_of_the_settings() -> None:
    lines = set((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    missing = [row for row in markdown_table().splitlines() if row not in lines]

    assert missing == [], "generate the table again: python -m deploy.settings_reference table"


def test_the_readme_lists_only_settings_that_exist() -> None:
    known = {variable(name) for name in Settings.model_fields}
    rows = [
        line.split("|")[1].strip(" `")
        for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `TASKMILL_")
    ]

    assert [name for name in rows if name not in known] == []
    assert len(rows) == len(set(rows))


def test_each_setting_is_passed_to_the_containers() -> None:
    assert list(check_settings_are_passed_on()) == []


def test_the_lists_for_compose_name_only_settings() -> None:
    assert set(Settings.model_fields) >= REQUIRED_BY_COMPOSE | SET_BY_COMPOSE
    assert not REQUIRED_BY_COMPOSE & SET_BY_COMPOSE
