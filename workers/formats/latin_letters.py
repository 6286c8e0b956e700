"""Rates which readings of a short text in Latin letters are words of a language, mostly one of Europe.

An encoding of one byte per character reads every text, and statistics need more than a name or two to tell them apart.
Two facts help where there is little text. A language has few letters beyond ASCII, so a reading whose letters belong to
one alphabet is likelier than a reading that mixes several. And signs and capital letters are not found within words: what
windows-1252 reads as `M‚ller` was written in another encoding.
"""

from __future__ import annotations

import re
import unicodedata
from enum import IntEnum

_WESTERN_ALPHABETS = tuple(
    frozenset(letters)
    for letters in (
        "äöüß",  # German
        "àâæçéèêëîïôœùûüÿ",  # French
        "áéíñóúü",  # Spanish
        "áâãàçéêíóôõúü",  # Portuguese
        "àéèìíîòóùú",  # Italian
        "àçéèíïòóúü",  # Catalan
        "áéèëïóöüêíúç",  # Dutch
        "åæøéèêóòô",  # Danish, Norwegian
        "åäöéàüšž",  # Swedish, Finnish
        "áéíóúýþæöð",  # Icelandic
    )
)
_OTHER_ALPHABETS = tuple(
    frozenset(letters)
    for letters in (
        "äõöüšž",  # Estonian
        "ąćęłńóśźż",  # Polish
        "áčďéěíňóřšťúůýž",  # Czech
        "áäčďéíĺľňóôŕšťúýž",  # Slovak
        "áéíóöőúüű",  # Hungarian
        "čćđšž",  # Croatian, Slovene
        "ăâîşţ",  # Romanian
        "çëï",  # Albanian
        "çğıiöşüâîû",  # Turkish
        "ąčęėįšųūž",  # Lithuanian
        "āčēģīķļņōŗšūž",  # Latvian
        "ăâđêôơưàáãèéìíòóùúý\u0300\u0301\u0303\u0309\u0323",  # Vietnamese
    )
)
_WESTERN_LETTERS = frozenset().union(*_WESTERN_ALPHABETS)
_SIGNS_BETWEEN_LETTERS = frozenset("’‘'–—…·\xad\xa0&@")
_SIGNS_NOT_AFTER_LETTER = frozenset("‰†‡ˆ˜¤¦¬¨´¸¯¥£±¼½¾\u02c7\u02d8\u02d9\u02db\u02dd")
"""The accents among them are not those that are part of a letter."""
_SIGNS_NOT_BEFORE_LETTER = frozenset("¢")
_SIGNS_NOT_BEFORE_SMALL_LETTER = frozenset("©®¶")
_SIGNS_NOT_BEFORE_SPACE = frozenset("‚„")
_SIGNS_AMONG_LETTERS = "ªºµ"
"""Ordinal indicators, as in `1º`, and the micro sign, which Unicode counts as letters."""
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
MOST_CHARACTERS = 4_096
"""How many characters beyond ASCII are looked at."""


class Likelihood(IntEnum):
    """How likely a reading is to be the right one."""

    UNLIKELY = 0
    """It has a sign or a capital letter within a word, or a letter of no alphabet in the list."""
    MIXED = 1
    """Its letters are Western European, of several languages."""
    ONE_ALPHABET = 2


def rate_reading(text: str) -> Likelihood:
    """Return how likely a text that was read in some encoding was written in it."""
    letters = set()
    for number, match in enumerate(_BEYOND_ASCII.finditer(text)):
        if number == MOST_CHARACTERS:
            break
        at = match.start()
        before, character, after = text[at - 1 : at], text[at], text[at + 1 : at + 2]
        if not _is_likely_between(before, character, after):
            return Likelihood.UNLIKELY
        if _is_letter(character):
            letters.add(character.lower() if character != "İ" else "i")
    if any(letters <= alphabet for alphabet in (*_WESTERN_ALPHABETS, *_OTHER_ALPHABETS)):
        return Likelihood.ONE_ALPHABET
    return Likelihood.MIXED if letters <= _WESTERN_LETTERS else Likelihood.UNLIKELY


def _is_letter(character: str) -> bool:
    """Return whether it is a letter or an accent on one; not for an empty text."""
    if character.isalpha():
        return character not in _SIGNS_AMONG_LETTERS
    return character != "" and unicodedata.combining(character) > 0


def _is_likely_between(before: str, character: str, after: str) -> bool:
    """Return whether a character beyond ASCII may stand between two others, which are empty at the ends of the text."""
    if "\x80" <= character <= "\x9f" or character == "\ufffd":
        return False
    if _is_letter(character):
        is_capital_within_word = character.isupper() and (before.islower() or (before.isupper() and after.islower()))
        return not (before.isdigit() or after.isdigit() or is_capital_within_word)
    if _is_letter(before) and character in _SIGNS_NOT_AFTER_LETTER:
        return False
    if _is_letter(after) and character in _SIGNS_NOT_BEFORE_LETTER:
        return False
    if after.islower() and character in _SIGNS_NOT_BEFORE_SMALL_LETTER:
        return False
    if after.isspace() and character in _SIGNS_NOT_BEFORE_SPACE:
        return False
    return character in _SIGNS_BETWEEN_LETTERS or not (_is_letter(before) and _is_letter(after))
