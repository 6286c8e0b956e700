"""Names of text encodings: labels of the WHATWG Encoding Standard and names of Python's codecs."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.contracts.text_encodings import EncodingName, find_codec


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("utf-8", "utf-8"),
        ("UTF8", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16le", "utf-16-le"),
        ("latin1", "cp1252"),
        ("ISO-8859-1", "cp1252"),
        ("8859", "cp1252"),
        ("ascii", "cp1252"),
        ("windows-1250", "cp1250"),
        ("x-cp1251", "cp1251"),
        ("iso-8859-2", "iso8859-2"),
        ("iso-8859-9", "cp1254"),
        ("Shift_JIS", "cp932"),
        ("windows-31j", "cp932"),
        ("gbk", "gb18030"),
        ("GB2312", "gb18030"),
        ("big5", "big5hkscs"),
        ("euc-kr", "cp949"),
        ("koi8_r", "koi8-r"),
        ("macintosh", "mac-roman"),
        ("cp437", "cp437"),
    ],
)
def test_an_encoding_is_known_by_the_labels_of_whatwg_and_of_python(label: str, codec: str) -> None:
    assert find_codec(label) == codec


@pytest.mark.parametrize(
    "label",
    ["", "no-such", "base64", "rot13", "zlib", "idna", "punycode", "unicode_escape", "../utf_8", "utf-8\n8", "ü" * 3],
)
def test_a_label_that_names_no_encoding_of_text_is_refused(label: str) -> None:
    assert find_codec(label) is None
    with pytest.raises(ValidationError):
        TypeAdapter(EncodingName).validate_python(label)
