"""Which email addresses are the same sign-in name, and which are refused."""

from __future__ import annotations

import pytest

from shared.people.email_addresses import UnusableAddress, find_address_key, parse_sign_in_address


@pytest.mark.parametrize(
    "text",
    ["ADA@EXAMPLE.COM", "Ada@Example.Com", " ada@example.com ", "ａｄａ@example.com", "ada@ｅｘａｍｐｌｅ.com"],
)
def test_addresses_that_differ_by_case_or_width_are_the_same_name(text: str) -> None:
    assert parse_sign_in_address(text).key == "ada@example.com"


def test_an_address_is_kept_as_it_was_written() -> None:
    assert parse_sign_in_address("Ada.Lovelace@Example.com").address == "Ada.Lovelace@example.com"


def test_a_domain_with_letters_of_another_script_is_shown_in_ascii() -> None:
    latin, cyrillic = parse_sign_in_address("ada@example.com"), parse_sign_in_address("ada@ex\u0430mple.com")

    assert cyrillic.key != latin.key
    assert cyrillic.address.startswith("ada@xn--")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@example.com\0",
        "\u0430da@example.com",
        "ada@a@b",
        "Ada <ada@example.com>",
        '"ada"@example.com',
        "ada@[127.0.0.1]",
        "ada\n@example.com",
        "a" * 300 + "@b.c",
    ],
)
def test_what_is_no_usable_address_is_refused(text: str) -> None:
    with pytest.raises(UnusableAddress):
        parse_sign_in_address(text)
    assert find_address_key(text) is None
