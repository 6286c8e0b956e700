from __future__ import annotations

from pathlib import Path

import pytest

from workers.formats.encodings import find_encoding


def read_back(folder: Path, text: str, encoding: str) -> str:
    """Write a text in an encoding, and read it in the one that is found."""
    path = folder / "text"
    path.write_bytes(text.encode(encoding))
    return path.read_bytes().decode(find_encoding(str(path)))


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
    ],
)
def test_a_western_text_is_read_as_it_was_written_however_short(tmp_path: Path, text: str) -> None:
    assert read_back(tmp_path, text, "cp1252") == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Все люди рождаются свободными и равными в своем достоинстве и правах.", "cp1251"),
        ("Все люди рождаются свободными и равными в своем достоинстве и правах.", "koi8-r"),
        ("id,город,население\n1,Москва,13010112\n2,Казань,1308660\n3,Санкт-Петербург,5601911\n", "cp1251"),
        ("Καλημέρα κόσμε, αυτό είναι ένα κείμενο", "cp1253"),
        ("こんにちは世界、これは日本語のテキストです。", "shift_jis"),
        ("こんにちは世界、これは日本語のテキストです。", "euc-jp"),
        ("你好，世界，这是一个中文文本。", "gb18030"),
        ("안녕하세요 세계 이것은 한국어 텍스트입니다", "euc-kr"),
    ],
)
def test_a_text_of_another_script_is_told_by_its_words(tmp_path: Path, text: str, encoding: str) -> None:
    assert read_back(tmp_path, text, encoding) == text


def test_a_late_letter_beyond_ascii_counts(tmp_path: Path) -> None:
    text = "plain words\n" * 60_000 + "Grüße\n"
    assert read_back(tmp_path, text, "latin-1") == text
