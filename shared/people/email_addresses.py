"""The email addresses by which people sign in.

Two addresses are the same sign-in name if their keys are equal: NFKC, the domain in its ASCII form (IDNA 2008), all in lower
case. The part before the @ must be ASCII after that, so that no address looks like another one with letters of other scripts;
a domain with such letters is shown in its ASCII form, `xn--…`.
"""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from shared.contracts.email._mailboxes import BadMailbox, parse_mailbox

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
        found = parse_mailbox(normalized)
    except BadMailbox as error:
        raise UnusableAddress(f"This is not an email address: {error}") from None
    # The text is compared, because the parser removes quotes that an address does not need.
    if any(character in normalized for character in '"<>[]'):
        raise UnusableAddress(
            "A sign-in address has neither a name, nor quotes, nor brackets: write it as ada@example.com."
        )
    if found.needs_smtputf8:
        raise UnusableAddress("The part before the @ of a sign-in address must consist of ASCII characters.")
    address = found.wire_address
    return SignInAddress(address, address.lower())


def find_address_key(text: str) -> str | None:
    """Return the key of an address, or None for a text that is the sign-in name of nobody."""
    try:
        return parse_sign_in_address(text).key
    except UnusableAddress:
        return None
