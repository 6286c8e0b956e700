"""The email addresses by which people sign in.

Two addresses are the same sign-in name if their keys are equal: NFKC, the domain in its ASCII form (IDNA 2008), all in lower
case. The part before the @ must be ASCII after that, so that no address looks like another one with letters of other scripts;
a domain with such letters is shown in its ASCII form, `xn--…`.
"""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from email_validator import EmailNotValidError, validate_email

MAX_CHARACTERS: Final = 254


class SignInAddress(NamedTuple):
    """An email address as written, with its domain in ASCII, and the key by which it is compared."""

    address: str
    key: str


class UnusableAddress(ValueError):
    """A text that cannot be the sign-in name of a person. The text of the error says why."""


def parse_sign_in_address(text: str) -> SignInAddress:
    """Return the address of a text. Raises `UnusableAddress`."""
    if len(text) > MAX_CHARACTERS:
        raise UnusableAddress(f"An email address has at most {MAX_CHARACTERS} characters.")
    normalized = unicodedata.normalize("NFKC", text.strip())
    try:
        found = validate_email(normalized, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise UnusableAddress(f"This is not an email address: {error}") from None
    if not found.local_part.isascii():
        raise UnusableAddress("The part before the @ of a sign-in address must consist of ASCII characters.")
    address = f"{found.local_part}@{found.ascii_domain}"
    return SignInAddress(address, address.lower())


def find_address_key(text: str) -> str | None:
    """Return the key of an address, or None for a text that is the sign-in name of nobody."""
    try:
        return parse_sign_in_address(text).key
    except UnusableAddress:
        return None
