"""Passwords: which are accepted, and how they are hashed and verified.

A password is normalized by NFKC (Unicode Standard Annex 15) before anything else, so that the same password typed on different
keyboards is the same one; NIST SP 800-63B recommends that. It has 12 to 200 characters, and is none of the common passwords of
`common_passwords.txt`. There are no rules about classes of characters, because they make people choose what is easy to guess.

Argon2id (RFC 9106) hashes it. Its parameters are settings: a hash with other parameters is replaced at the next sign-in.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Final

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from shared.people_settings import PeopleSettings

MIN_CHARACTERS: Final = 12
MAX_CHARACTERS: Final = 200
MAX_RAW_CHARACTERS: Final = 1000
"""A longer text is refused before it is normalized. Normalization makes most texts shorter, if it changes them at all."""
_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")
COMMON_PASSWORDS: Final = Path(__file__).with_name("common_passwords.txt")


class UnacceptablePassword(Exception):
    """A password that cannot be chosen. `code` is for programs, and the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def normalize_password(password: str) -> str | None:
    """Return a password in the form that is hashed, or None for a text that cannot be a password."""
    if len(password) > MAX_RAW_CHARACTERS or _UNUSABLE.search(password):
        return None
    normalized = unicodedata.normalize("NFKC", password)
    return normalized if MIN_CHARACTERS <= len(normalized) <= MAX_CHARACTERS else None


def check_new_password(password: str, email: str = "") -> str:
    """Return a new password in the form that is hashed. Raises `UnacceptablePassword`."""
    if _UNUSABLE.search(password):
        raise UnacceptablePassword("unusable_characters", "A password must not contain U+0000 or unpaired surrogates.")
    normalized = normalize_password(password)
    if normalized is None:
        raise UnacceptablePassword("length", f"A password has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters.")
    if is_common(normalized):
        raise UnacceptablePassword(
            "common_password", "This password is a common one, which is guessed first: choose another."
        )
    folded, address = normalized.casefold(), email.casefold()
    if address and folded in {address, address.partition("@")[0] * 2, address.replace("@", "")}:
        raise UnacceptablePassword(
            "common_password", "The password is the email address, which is guessed first: choose another."
        )
    return normalized


def is_common(password: str) -> bool:
    """Return whether a password is in the list of common ones, or is a short text that is repeated, in any case of letters."""
    folded = password.casefold()
    if folded in _read_common_passwords():
        return True
    # A text is a repetition of a shorter one when it is found within its own double, other than at the ends.
    period = (folded + folded).find(folded, 1)
    return period < MIN_CHARACTERS / 2 + 1 and period < len(folded)


@cache
def _read_common_passwords() -> frozenset[str]:
    lines = COMMON_PASSWORDS.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


class PasswordHasher:
    """Hashes and verifies passwords. Each call takes about a tenth of a second and tens of MiB: run it in a thread."""

    def __init__(self, settings: PeopleSettings) -> None:
        argon2id = Argon2Hasher(
            time_cost=settings.password_time_cost,
            memory_cost=settings.password_memory_kib,
            parallelism=settings.password_parallelism,
        )
        self._hash = PasswordHash((argon2id,))
        self._argon2id = argon2id
        self._nobodys = self._hash.hash("a password that nobody has")

    def hash(self, normalized: str) -> str:
        """Return the hash of a normalized password, with a random salt and the parameters of the settings."""
        return self._hash.hash(normalized)

    def verify(self, password: str, stored: str | None) -> bool:
        """Return whether a password is the stored one.

        Without a stored hash, and for a text that cannot be a password, the same work is done in vain, so that the time that
        the answer takes does not tell whether there is such an account.
        """
        normalized = normalize_password(password)
        is_right = self._hash.verify(normalized or "", stored or self._nobodys)
        return is_right and stored is not None and normalized is not None

    def is_outdated(self, stored: str) -> bool:
        """Return whether a hash has other parameters than the settings."""
        return self._argon2id.check_needs_rehash(stored)
