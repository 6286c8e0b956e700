"""Mailboxes as people write them: `Zoë Müller <zoe@example.com>`.

The grammar is RFC 5322 section 3.4's `mailbox`, without comments, folding and routes, and with Unicode as RFC 6532
section 3.2 adds it, so that a display name needs quotes only around what the grammar reserves, such as a comma.
Addresses are checked by their syntax alone: nothing is looked up.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import email_validator

# The library refuses these, for forms on the open web. A mail server inside a company may well serve them.
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
    """The text is no mailbox; the message says why, in a sentence for the one who wrote it."""


@dataclass(frozen=True)
class Mailbox:
    """One address, and the name shown for it, which may be empty."""

    display_name: str
    local_part: str
    """Before the @, quoted where it must be."""
    domain: str
    """After the @, in Unicode and lower case; an IP address in brackets stays one."""
    ascii_domain: str
    """The same as IDNA 2008 encodes it (RFC 5891)."""

    @property
    def address(self) -> str:
        """The address as results and receipts name it."""
        return f"{self.local_part}@{self.domain}"

    @property
    def wire_address(self) -> str:
        """The address as SMTP carries it: of ASCII alone, unless `needs_smtputf8`."""
        return f"{self.local_part}@{self.ascii_domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server with that extension (RFC 6531) can take the address."""
        return not self.local_part.isascii()

    def __str__(self) -> str:
        """Give the one form that a mailbox is kept in; parsing it gives an equal mailbox."""
        return f"{quote_display_name(self.display_name)} <{self.address}>" if self.display_name else self.address


def quote_display_name(name: str) -> str:
    """Give a display name as a phrase: as it is, or as one quoted string (RFC 5322 section 3.2.4)."""
    if _NEEDS_NO_QUOTES.fullmatch(name):
        return name
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def find_forbidden_character(text: str, *, allowed: str = "") -> str | None:
    """Give the name of a character that no single line of text may hold, if there is one.

    These are the controls, what some software takes for the end of a line, and what turns the direction of the text
    and so lets it show as something else.
    """
    for character in text:
        if character not in allowed and (
            unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _BIDIRECTIONAL_CONTROLS
        ):
            return f"U+{ord(character):04X}"
    return None


def parse_mailbox(text: str) -> Mailbox:
    """Read one mailbox. Raises `BadMailbox`."""
    if (character := find_forbidden_character(text)) is not None:
        raise BadMailbox(f"A mailbox may not hold the character {character}.")
    text = text.strip(" ")
    named = _BEFORE_ANGLE.fullmatch(text)
    display_name = _read_display_name(named[1].strip(" ")) if named else ""
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


def _read_display_name(phrase: str) -> str:
    words: list[str] = []
    position = 0
    while position < len(phrase):
        match = _WORD.match(phrase, position)
        if match is None:
            raise BadMailbox('A display name with any of ( ) < > [ ] : ; @ , or a backslash must stand in "quotes".')
        word = match[1]
        words.append(re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word)
        position = match.end()
    name = unicodedata.normalize("NFC", " ".join(words))
    if len(name) > MAX_DISPLAY_NAME_LENGTH:
        raise BadMailbox(f"A display name has at most {MAX_DISPLAY_NAME_LENGTH} characters.")
    return name
