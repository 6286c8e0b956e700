"""Writes texts as cells of CSV (RFC 4180) that are safe to open in a spreadsheet."""

from __future__ import annotations

import re
from typing import Final

FORMULA_STARTS: Final = frozenset("=+-@\t\r\n＝＋－＠")
"""Characters that a spreadsheet may take for the start of a formula (OWASP, CSV Injection)."""
NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
MUST_BE_QUOTED: Final = re.compile(r'[",;\x00-\x1f\x7f\x85\u2028\u2029]|^ | $')
"""More than RFC 4180 requires: a semicolon or a tab is a separator in some countries' spreadsheets, and some readers take
other control characters for the end of a line."""


def csv_text(value: str) -> str:
    """Return the cell of a text: quoted where needed, and with an apostrophe before what might be taken for a formula."""
    if not value:
        return '""'
    if value[0] in FORMULA_STARTS and not NUMBER.fullmatch(value):
        return "\"'" + value.replace('"', '""') + '"'
    if MUST_BE_QUOTED.search(value):
        return '"' + value.replace('"', '""') + '"'
    return value
