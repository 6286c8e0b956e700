from __future__ import annotations

from pathlib import Path

import pytest

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
    ("text", "encoding"),
    [
        ("Все люди рождаются свободными и равными в своем достоинстве и правах.", "cp1251"),
        ("Все люди рождаются свободными и равными в своем достоинстве и правах.", "koi8-r"),
        ("имя,город\nВера,Москва\n", "koi8-r"),
        ("имя,город\nВера,Москва\n", "cp1251"),
        ("姓名,城市\n王伟,北京\n李娜,上海\n", "gbk"),
        ("名前,都市\n太郎,東京\n花子,大阪\n", "shift_jis"),
        ("id,город,население\n1,Москва,13010112\n2,Казань,1308660\n3,Санкт-Петербург,5601911\n", "cp1251"),
        ("Καλημέρα κόσμε, αυτό είναι ένα κείμενο", "cp1253"),
        ("こんにちは世界、これは日本語のテキストです。", "shift_jis"),
        ("こんにちは世界、これは日本語のテキストです。", "euc-jp"),
        ("你好，世界，这是一个中文文本。", "gb18030"),
        ("안녕하세요 세계 이것은 한국어 텍스트입니다", "euc-kr"),
    ],
)
def test_text_of_another_script_is_recognized_by_its_words(tmp_path: Path, text: str, encoding: str) -> None:
    assert read_back(tmp_path, text, encoding) == text


def test_a_late_letter_beyond_ascii_counts(tmp_path: Path) -> None:
    text = "plain words\n" * 60_000 + "Grüße\n"
    assert read_back(tmp_path, text, "latin-1") == text


@pytest.mark.parametrize(
    "text",
    [
        "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi.",
        "id;imię;miasto\n1;Łukasz;Łódź\n2;Małgorzata;Kraków\n3;Świętosław;Gdańsk\n",
        "Příliš žluťoučký kůň úpěl ďábelské ódy",
        "jméno,město\nJiří,Plzeň\nŘehoř,České Budějovice\nŽaneta,Ústí nad Labem\n",
    ],
)
def test_polish_and_czech_are_read_in_windows_1250(tmp_path: Path, text: str) -> None:
    assert read_back(tmp_path, text, "cp1250") == text


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
