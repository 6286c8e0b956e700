from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.workers.formats.short_texts import SHORT_TEXTS
from workers.formats.encodings import Encoding, NotText, find_encoding, read_text


def read_back(folder: Path, text: str, encoding: str) -> str:
    """Write a text in an encoding, and read it in the one that is found."""
    path = folder / "text"
    path.write_bytes(text.encode(encoding))
    return "".join(read_text(path, find_encoding(path)))


@pytest.mark.parametrize(
    "text",
    [
        "Grüße",
        "Zoë",
        "café",
        "Ærø",
        "Müller",
        "Señor",
        "Straße 12\nKöln\n",
        "name,stadt\nZoë,Köln\nMüller,Zürich\n",
        "Les élèves français étudient à l'école",
        "20 °C",
        "£5 only",
        "½ cup",
        "“Öl” for €5",
        "it’s",
        "£££",
        "São João não é irmão; coração, ações",
        "navn,by\nSøren,Århus\nÆrø,Tønder\n",
        "perché così è più città; virtù e libertà",
        "El niño comió piñas en España, ¿no?",
    ],
)
def test_western_text_is_windows_1252_however_short(tmp_path: Path, text: str) -> None:
    assert read_back(tmp_path, text, "cp1252") == text


@pytest.mark.parametrize(
    ("encoding", "text"), [(encoding, text) for encoding, texts in SHORT_TEXTS.items() for text in texts]
)
def test_a_short_text_is_read_in_its_encoding(tmp_path: Path, encoding: str, text: str) -> None:
    assert read_back(tmp_path, text, encoding) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(
    "text",
    [
        "name;ort\nMüller;Köln\n",
        "имя,город\nИван,Москва\n",
        "姓名,城市\n王伟,北京\n",
        "名前,都市\nたろう,とうきょう\n",
        "Καλημέρα κόσμε\n",
        "plain words",
    ],
)
def test_utf_16_and_utf_32_need_no_byte_order_mark(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(text.encode(encoding))

    found = find_encoding(path)

    assert found.iana_name == encoding.replace("-le", "le").replace("-be", "be")
    assert "".join(read_text(path, found)) == text


def test_utf_16_without_a_mark_is_read_in_its_order_when_it_is_requested(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("Grüße an alle\n".encode("utf-16-be"))

    assert "".join(read_text(path, find_encoding(path, "utf-16"))) == "Grüße an alle\n"


@pytest.mark.parametrize("content", [b"a,b\0c,d\0\n1", b"a,b\0c,d\0\n12", b"\0\1\0\2", b"PK\0\0PK\0\0", b"A\0"])
def test_bytes_with_nulls_that_are_no_utf_16_are_no_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text"
    path.write_bytes(content + b"\xe9\xe9" * 2)

    with pytest.raises(NotText):
        find_encoding(path)


def test_a_late_letter_beyond_ascii_counts(tmp_path: Path) -> None:
    text = "plain words\n" * 60_000 + "Grüße\n"
    assert read_back(tmp_path, text, "latin-1") == text


@pytest.mark.parametrize(
    ("content", "text", "replaced_bytes"),
    [
        ("Grüße\n".encode() * 30 + b"Gr\xe9e\n", "Grüße\n" * 30 + "Gr\ufffde\n", 1),
        ("Straße über café".encode()[:-1], "Straße über caf\ufffd", 1),
        ("日本語のテキスト".encode()[:-1], "日本語のテキス\ufffd", 2),
        ("naïve".encode() + b"\xff", "naïve\ufffd", 1),
    ],
)
def test_damaged_utf_8_stays_utf_8_and_the_bytes_are_counted(
    tmp_path: Path, content: bytes, text: str, replaced_bytes: int
) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)

    encoding = find_encoding(path)

    assert (encoding.iana_name, encoding.replaced_bytes) == ("utf-8", replaced_bytes)
    assert "".join(read_text(path, encoding)) == text


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("windows-1251", "cp1251"),
        ("CP1251", "cp1251"),
        ("x-cp1251", "cp1251"),
        ("koi8_r", "koi8-r"),
        ("latin1", "cp1252"),
        ("iso-8859-2", "iso8859-2"),
    ],
)
def test_a_requested_encoding_is_taken_by_any_of_its_names(tmp_path: Path, label: str, codec: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xc0\xe1")

    encoding = find_encoding(path, label)

    assert encoding == Encoding(codec)
    assert "".join(read_text(path, encoding)) == b"\xc0\xe1".decode(codec)


@pytest.mark.parametrize(
    ("content", "label", "words"),
    [
        (b"a\x82\xff", "shift_jis", "not encoded in shift_jis, in which some"),
        (b"Gr\xfc\xdfe", "utf-8", "not encoded in utf-8, in which some"),
        ("Grüße".encode("utf-8-sig"), "windows-1252", "byte order mark of UTF-8"),
        ("Grüße".encode("utf-16"), "utf-8", "byte order mark of UTF-16"),
        (b"abc", "utf-16", "not encoded in utf-16, in which some"),
    ],
)
def test_a_requested_encoding_that_the_bytes_contradict_is_an_error(
    tmp_path: Path, content: bytes, label: str, words: str
) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)

    with pytest.raises(NotText, match=words):
        find_encoding(path, label)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_that_agrees_with_the_request_is_no_text(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "text"
    path.write_bytes("Grüße".encode(codec))

    assert "".join(read_text(path, find_encoding(path, codec.removesuffix("-sig")))) == "Grüße"


def test_texts_are_counted_apart_in_several_threads(tmp_path: Path) -> None:
    paths = [tmp_path / f"text-{number}" for number in range(4)]
    for number, path in enumerate(paths):
        # Several pieces, so that the threads take turns while each decodes its text.
        path.write_bytes("ü".encode() * 2_000_000 + b"\xff" * number)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(find_encoding, paths * 2))

    assert [encoding.replaced_bytes for encoding in found] == [0, 1, 2, 3] * 2
