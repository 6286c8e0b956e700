"""API keys: how their expiry is read, and what is stored and listed of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shared.api_keys import create_key, list_keys, read_expiry
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
