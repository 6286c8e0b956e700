"""API keys: how their expiry is read, and what is stored and listed of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.api_keys import (
    KEY_PATTERN,
    create_key,
    key_prefix,
    list_keys,
    new_key,
    read_expiry,
    read_networks,
    replace_key,
)
from shared.settings import Settings

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90d", NOW + timedelta(days=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("2027-06-30", datetime(2027, 6, 30, tzinfo=UTC)),
        ("2027-06-30T08:00:00+02:00", datetime(2027, 6, 30, 6, tzinfo=UTC)),
        ("2027-06-30T08:00", datetime(2027, 6, 30, 8, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_duration_or_a_date(text: str, moment: datetime) -> None:
    assert read_expiry(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "90", "d", "-1d", "1.5h", "2027-13-01", "999999d"])
def test_a_text_that_is_no_expiry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a duration"):
        read_expiry(text, NOW)


def test_a_key_that_expires_in_the_past_is_not_created(settings: Settings) -> None:
    with pytest.raises(ValueError, match="must expire in the future"):
        create_key(settings, "ana", expires_at=datetime.now(UTC) - timedelta(seconds=1))

    assert list_keys(settings) == []


def test_a_key_is_listed_with_its_prefix_creation_and_expiry_and_without_its_secret(settings: Settings) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    created = create_key(settings, "ana", expires_at=expires_at)

    (listed,) = list_keys(settings)

    assert (listed.id, listed.prefix, listed.expires_at) == (created.id, created.key.split("_")[1], expires_at)
    assert abs(listed.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert listed.last_used_at is None
    assert created.key.split("_", 2)[2] not in repr(listed)


def test_a_key_fits_the_pattern_that_the_documents_give_to_scanners() -> None:
    key = new_key()

    assert KEY_PATTERN.fullmatch(key)
    assert key_prefix(key) == key.split("_")[1]
    document = (Path(__file__).parents[2] / "docs" / "permissions.md").read_text(encoding="utf-8")
    assert f"`{KEY_PATTERN.pattern}`" in document


@pytest.mark.parametrize("position", [4, 20, 40, 60])
def test_a_key_with_one_wrong_character_is_refused_by_its_checksum(position: int) -> None:
    key = new_key()
    other = "0" if key[position] != "0" else "1"

    assert key_prefix(key[:position] + other + key[position + 1 :]) is None


def test_a_key_of_the_time_before_checksums_is_still_one() -> None:
    assert key_prefix("tm_0123456789ab_Zm9yIG9sZCBrZXlz-dGhlcmUgd2FzIG5v_Y2hlY2tz") == "0123456789ab"


def test_a_replaced_key_keeps_its_rights_and_ends_after_the_overlap(settings: Settings) -> None:
    first = create_key(
        settings,
        "ana",
        "operator",
        ["tasks:read"],
        expires_at=datetime.now(UTC) + timedelta(days=30),
        organization_only=True,
        networks=["192.0.2.0/24"],
    )

    second = replace_key(settings, first.key, timedelta(hours=1))

    assert second is not None
    old, new = list_keys(settings)
    assert old.expires_at is not None and new.expires_at is not None
    assert timedelta(minutes=59) < old.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    assert abs(new.expires_at - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
    for key in (old, new):
        assert (key.name, key.role, key.platform_role, key.scopes) == ("ana", "operator", None, ("tasks:read",))
        assert key.networks == read_networks(["192.0.2.0/24"])
    assert replace_key(settings, "000000000000", timedelta(0)) is None


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "300.1.1.1", "example.com"])
def test_a_text_that_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no network"):
        read_networks([text])
