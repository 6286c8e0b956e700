"""Names of text encodings: the labels of the WHATWG Encoding Standard, and the names that Python knows.

The labels are those of https://encoding.spec.whatwg.org/#names-and-labels. Python knows most of them already; the table
below holds the others, and those that the standard reads in a wider sense than Python, such as `latin1`, which it reads
as windows-1252.
"""

from __future__ import annotations

import codecs
import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _:+-]{0,39}")

_CODECS_BY_LABEL = {
    label: codec
    for codec, labels in {
        "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8",
        "utf-16-le": "utf-16le csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16-le",
        "utf-16-be": "utf-16be unicodefffe utf-16-be",
        "cp1252": "windows-1252 x-cp1252 ascii us-ascii ansi_x3.4-1968 latin1 latin-1 l1 iso-8859-1 iso8859-1 iso88591 "
        "iso_8859-1 iso_8859-1:1987 iso-ir-100 csisolatin1 ibm819 cp819",
        "cp1250": "x-cp1250",
        "cp1251": "x-cp1251",
        "cp1253": "x-cp1253",
        "cp1254": "x-cp1254 iso-8859-9 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 iso-ir-148 csisolatin5 latin5 l5",
        "cp1255": "x-cp1255",
        "cp1256": "x-cp1256",
        "cp1257": "x-cp1257",
        "cp1258": "x-cp1258",
        "cp874": "windows-874 dos-874 tis-620 iso-8859-11 iso8859-11 iso885911",
        "iso8859-8": "logical csiso88598i iso-8859-8-i visual csiso88598e iso-8859-8-e",
        "iso8859-6": "iso-8859-6-e iso-8859-6-i csiso88596e csiso88596i",
        "iso8859-7": "sun_eu_greek",
        "koi8-r": "koi koi8 koi8_r",
        "koi8-u": "koi8-ru",
        "mac-roman": "macintosh x-mac-roman mac csmacintosh",
        "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
        "cp866": "csibm866",
        "cp932": "shift_jis shift-jis sjis x-sjis ms_kanji ms932 windows-31j csshiftjis",
        "euc_jp": "x-euc-jp cseucpkdfmtjapanese",
        "gb18030": "gbk gb2312 x-gbk chinese csgb2312 csiso58gb231280 gb_2312 gb_2312-80 iso-ir-58",
        "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
        "cp949": "euc-kr euckr windows-949 korean cseuckr csksc56011987 iso-ir-149 ks_c_5601-1987 ks_c_5601-1989 "
        "ksc5601 ksc_5601",
    }.items()
    for label in labels.split()
}

_NO_ENCODINGS_OF_FILES = frozenset(
    {"idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)
"""Codecs of Python that turn bytes into text without being the encoding of a text file."""


def find_codec(label: str) -> str | None:
    """Return the name of Python's codec for a label, or None if there is no such text encoding.

    Upper and lower case are the same. `utf-8` and `utf-16` are returned for their forms with a byte order mark too.
    """
    label = label.strip().lower()
    if label in _CODECS_BY_LABEL:
        return _CODECS_BY_LABEL[label]
    if not _LABEL.fullmatch(label):
        return None
    try:
        codec = codecs.lookup(label)
    except LookupError:
        return None
    if not codec._is_text_encoding or codec.name in _NO_ENCODINGS_OF_FILES:
        return None
    # A label may be an alias that only Python knows, such as `8859` for Latin-1. Its codec is still read as the standard reads it.
    return _CODECS_BY_LABEL.get(codec.name, codec.name)


def _require_known(label: str) -> str:
    if find_codec(label) is None:
        raise PydanticCustomError(
            "unknown_encoding",
            "This is not the name of a known text encoding. Use a label of the WHATWG Encoding Standard.",
        )
    return label


EncodingName = Annotated[
    str,
    Field(min_length=1, max_length=40),
    AfterValidator(_require_known),
]
"""A param that names a text encoding."""

ENCODING_DESCRIPTION = (
    "The character encoding of the text, by a label of the WHATWG Encoding Standard or a name of Python's, such as "
    "`windows-1250`, `shift_jis` or `koi8-r`. By default, it is found from the bytes. The task fails if the "
    "bytes of the file do not fit a given encoding."
)
