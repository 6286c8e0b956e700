"""One-time passwords against the vectors of RFC 6238, and which codes are accepted."""

from __future__ import annotations

import base64

import pytest

from shared.people.totp import (
    STEP_SECONDS,
    code_at,
    find_step,
    new_recovery_codes,
    new_secret,
    normalize_recovery_code,
    provisioning_uri,
)

RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_codes_are_those_of_the_rfc(seconds: int, code: str) -> None:
    assert code_at(RFC_SECRET, seconds // STEP_SECONDS) == code


def test_a_code_is_accepted_one_step_early_or_late_and_no_more() -> None:
    secret, now = new_secret(), 1_800_000_015.0
    step = int(now // STEP_SECONDS)

    found = [find_step(secret, code_at(secret, step + difference), now) for difference in (-2, -1, 0, 1, 2)]

    assert found == [None, step - 1, step, step + 1, None]


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "１２３４５６", "\ud800"])
def test_what_is_no_code_is_not_accepted(code: str) -> None:
    assert find_step(RFC_SECRET, code, 59) is None


def test_the_uri_for_apps_names_the_account_and_the_issuer() -> None:
    uri = provisioning_uri("ABC", "ada@example.com", "Task mill")

    assert uri.startswith("otpauth://totp/Task%20mill:ada%40example.com?secret=ABC&issuer=Task%20mill&")


def test_recovery_codes_are_read_however_they_are_typed() -> None:
    codes = new_recovery_codes()

    assert len(set(codes)) == 10
    assert normalize_recovery_code(f" {codes[0].upper()} ") == codes[0].replace("-", "")
