"""Mailboxes as people write them: `Zoë Müller <zoe@example.com>`.

The grammar is `mailbox` of RFC 5322 section 3.4 without comments, folding and routes, and with Unicode as RFC 6532
section 3.2 adds it. A display name needs quotes only where it contains characters that the grammar reserves, such as a
comma. Only the syntax of addresses is checked: nothing is looked up in DNS.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import email_validator

# The library refuses these domains because it is written for forms on the public web. A mail server inside a company may
# serve them.
for _domain in ("local", "localhost", "test"):
    if _domain in email_validator.SPECIAL_USE_DOMAIN_NAMES:
        email_validator.SPECIAL_USE_DOMAIN_NAMES.remove(_domain)

MAX_DISPLAY_NAME_LENGTH = 200
MAX_MAILBOX_LENGTH = 1000

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_UNQUOTED = r'[^\s"(),:;<>@\[\]\\]+'
_WORD = re.compile(f'({_QUOTED}|{_UNQUOTED})(?: +|$|(?="))')
_BEFORE_ANGLE = re.compile(rf'((?:{_QUOTED}|[^"<])*)<(.*)>', re.DOTALL)
_NEEDS_NO_QUOTES = re.compile(rf"{_UNQUOTED}(?: {_UNQUOTED})*")
_BIDIRECTIONAL_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class BadMailbox(ValueError):
    """The text is not a mailbox. The message states why, in a sentence for the caller."""


@dataclass(frozen=True)
class Mailbox:
    """An address and the name that is shown for it, which may be empty."""

    display_name: str
    local_part: str
    """The part before the @, in quotes where the grammar requires them."""
    domain: str
    """The part after the @, in Unicode and lower case, or an IP address in brackets."""
    ascii_domain: str
    """The domain as IDNA 2008 encodes it (RFC 5891)."""

    @property
    def address(self) -> str:
        """The address as results and receipts contain it."""
        return f"{self.local_part}@{self.domain}"

    @property
    def wire_address(self) -> str:
        """The address as it is sent over SMTP: in ASCII, unless `needs_smtputf8`."""
        return f"{self.local_part}@{self.ascii_domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server with the extension SMTPUTF8 (RFC 6531) can accept the address."""
        return not self.local_part.isascii()

    def __str__(self) -> str:
        """Return the form in which a mailbox is stored; parsing it returns an equal mailbox."""
        return f"{quote_display_name(self.display_name)} <{self.address}>" if self.display_name else self.address


def quote_display_name(name: str) -> str:
    """Return a display name as a phrase: unchanged, or as one quoted string (RFC 5322 section 3.2.4)."""
    if _NEEDS_NO_QUOTES.fullmatch(name):
        return name
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def find_forbidden_character(text: str, *, allowed: str = "") -> str | None:
    """Return the name, such as `U+000A`, of the first character that a line of text may not contain, or None.

    Refused are control characters, characters that some software reads as the end of a line, and bidirectional
    controls, which make a text look like another one.
    """
    for character in text:
        if character not in allowed and (
            unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _BIDIRECTIONAL_CONTROLS
        ):
            return f"U+{ord(character):04X}"
    return None


def parse_mailbox(text: str) -> Mailbox:
    """Parse one mailbox. Raises `BadMailbox`."""
    if (character := find_forbidden_character(text)) is not None:
        raise BadMailbox(f"A mailbox may not contain the character {character}.")
    text = text.strip(" ")
    named = _BEFORE_ANGLE.fullmatch(text)
    display_name = _parse_display_name(named[1].strip(" ")) if named else ""
    address = named[2] if named else text
    try:
        valid = email_validator.validate_email(
            address,
            check_deliverability=False,
            allow_quoted_local=True,
            allow_domain_literal=True,
            globally_deliverable=not address.lower().endswith("@localhost"),
        )
    except email_validator.EmailNotValidError as error:
        raise BadMailbox(str(error)) from None
    return Mailbox(display_name, valid.local_part, valid.domain, valid.ascii_domain)


def _parse_display_name(phrase: str) -> str:
    words: list[str] = []
    position = 0
    while position < len(phrase):
        match = _WORD.match(phrase, position)
        if match is None:
            raise BadMailbox('A display name with any of ( ) < > [ ] : ; @ , or a backslash must be in "quotes".')
        word = match[1]
        words.append(re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word)
        position = match.end()
    name = unicodedata.normalize("NFC", " ".join(words))
    if len(name) > MAX_DISPLAY_NAME_LENGTH:
        raise BadMailbox(f"A display name has at most {MAX_DISPLAY_NAME_LENGTH} characters.")
    return name
