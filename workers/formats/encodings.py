"""Finds the encoding of a text and reads the text piece by piece, in a limited child."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.contracts.text_encodings import find_codec

PIECE_BYTES = 1 << 20
SAMPLE_BYTES = 256 << 10
"""How much of a text is read to guess its encoding."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # The mark of UTF-32 begins with that of UTF-16, so it is looked for first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_OTHER_SCRIPTS = ("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5", "cp949")
"""Encodings of scripts other than Latin that the Encoding Standard knows, each by its largest relative."""

_WORD_BEYOND_ASCII = re.compile(rb"[\x80-\xff]{3,}")
MIN_DISTINCT_BYTES = 8
"""With fewer different bytes beyond ASCII, the scripts cannot be distinguished."""

_ONLY_LETTER_IN_WINDOWS_1250 = re.compile(
    rb"[A-Za-z\xc0-\xff][\x8d\x8f\x9d\xa3\xa5\xaa\xaf\xb3\xb9\xba\xbc\xbe\xbf][A-Za-z\xc0-\xff]"
)
"""Within a word, a byte that is a letter in windows-1250, and in windows-1252 a sign such as a superscript or none."""

_KOI8_LOWER_CASE = bytes([0xA3, *range(0xC0, 0xE0)])
"""The small letters of Russian in KOI8-R; in windows-1251 the capital letters have most of these bytes."""

_WINDOWS_1252 = "".join(
    bytes([byte]).decode("latin-1" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "cp1252") for byte in range(256)
)
"""Five bytes have no meaning in Python's table; the Encoding Standard gives them the meaning they have in Latin-1."""


class NotText(Exception):
    """The bytes are not text, or not text in the requested encoding. `reason` is the rest of a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Encoding:
    """How a text is encoded."""

    codec: str
    """Python's name of the codec that reads the text without its byte order mark."""
    replaced_bytes: int = 0
    """How many bytes are not valid in the encoding; U+FFFD stands for them in the text."""

    @property
    def iana_name(self) -> str:
        """Return the IANA name in lower case."""
        name = codecs.lookup(self.codec).name
        if name == "utf-8-sig":
            return "utf-8"
        if name.startswith("cp125"):
            return name.replace("cp", "windows-")
        if name.startswith("iso8859-"):
            return name.replace("iso", "iso-", 1)
        return _IANA_NAMES.get(name, name.replace("_", "-"))


_IANA_NAMES = {
    "big5hkscs": "big5",
    "cp874": "windows-874",
    "cp932": "shift_jis",
    "cp949": "euc-kr",
    "mac-roman": "macintosh",
    "shift_jis": "shift_jis",
    "utf-16-be": "utf-16be",
    "utf-16-le": "utf-16le",
    "utf-32-be": "utf-32be",
    "utf-32-le": "utf-32le",
}


def find_encoding(path: str | Path, requested: str | None = None) -> Encoding:
    """Return the encoding of a text file: the requested one, or the one that its bytes show.

    Without a request, these are tried in turn:

    1. A byte order mark decides.
    2. Bytes that are valid UTF-8, and so ASCII, are UTF-8. So are those in which at least as many letters beyond ASCII
       are valid UTF-8 as bytes are not: a file with a damaged byte, or one that is cut within its last letter.
    3. If whole words consist of bytes beyond ASCII, it is the likeliest encoding of another script.
    4. Otherwise it is windows-1250 if that is the likelier reading of the letters, and else windows-1252, which contains
       Latin-1 and which the WHATWG Encoding Standard falls back on.

    Raises `NotText` for bytes that are not text, or not valid in the requested encoding.
    """
    path = Path(path)
    found = _find_by_mark(path)
    if requested is not None:
        return _check_requested(path, requested, found)
    if found is not None:
        return Encoding(found, _count_replaced(path, found).replaced_bytes)
    count = _count_replaced(path, "utf-8")
    if count.replaced_bytes == 0 or count.letters_beyond_ascii >= count.replaced_bytes:
        return Encoding("utf-8", count.replaced_bytes)
    codec = _guess(path)
    return Encoding(codec, _count_replaced(path, codec).replaced_bytes)


def read_text(path: str | Path, encoding: Encoding) -> Iterator[str]:
    """Yield a text in pieces, without its byte order mark, and with U+FFFD in place of invalid bytes."""
    yield from _decode(Path(path), encoding.codec, "replace")


def _find_by_mark(path: Path) -> str | None:
    with path.open("rb") as stream:
        head = stream.read(4)
    return next((codec for mark, codec in _BYTE_ORDER_MARKS if head.startswith(mark)), None)


def _check_requested(path: Path, label: str, codec_of_mark: str | None) -> Encoding:
    codec = find_codec(label)
    assert codec is not None, "the contract refuses unknown encodings"
    if codec_of_mark is not None:
        if not codec.startswith(codec_of_mark.removesuffix("-sig")):
            name = Encoding(codec_of_mark).iana_name.upper()
            raise NotText(f"it is not encoded in {label}, since it begins with the byte order mark of {name}.")
        codec = codec_of_mark
    try:
        for _ in _decode(path, codec, "strict"):
            pass
    except UnicodeError:
        raise NotText(f"it is not encoded in {label}, in which some of its bytes are not valid.") from None
    return Encoding(codec)


@dataclass
class _Count:
    """What was counted while a text was decoded."""

    letters_beyond_ascii: int = 0
    replaced_bytes: int = 0


def _count_replaced(path: Path, codec: str) -> _Count:
    count, replacements = _Count(), 0

    def replace(error: UnicodeError) -> tuple[str, int]:
        nonlocal replacements
        assert isinstance(error, UnicodeDecodeError), "nothing is encoded here"
        count.replaced_bytes += error.end - error.start
        replacements += 1
        return "\ufffd", error.end

    name = "taskmill-count-replaced"
    codecs.register_error(name, replace)
    for piece in _decode(path, codec, name):
        if not piece.isascii():
            count.letters_beyond_ascii += len(piece) - len(piece.encode("ascii", "ignore"))
    count.letters_beyond_ascii -= replacements
    return count


def _decode(path: Path, codec: str, errors: str) -> Iterator[str]:
    decode = _decode_windows_1252 if codec == "cp1252" else codecs.getincrementaldecoder(codec)(errors).decode
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            yield decode(piece, False)
    yield decode(b"", True)


def _decode_windows_1252(piece: bytes, final: bool = False) -> str:
    return codecs.charmap_decode(piece, "strict", _WINDOWS_1252)[0]


def _guess(path: Path) -> str:
    with path.open("rb") as stream:
        sample = _from_first_byte_beyond_ascii(stream.read(SAMPLE_BYTES), path)
    if b"\0" in sample:
        raise NotText("it is not text in a known encoding.")
    if not _has_words_beyond_ascii(sample):
        return _guess_latin(sample)
    if _is_koi8(sample):
        return "koi8_r"
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=list(_OTHER_SCRIPTS), enable_fallback=False).best()
    return best.encoding if best is not None and best.encoding in _OTHER_SCRIPTS else _guess_latin(sample)


def _guess_latin(sample: bytes) -> str:
    """Return `cp1250` where its letters make likelier words than those of `cp1252`, and `cp1252` in doubt."""
    if sample.decode("cp1250", "replace") == sample.decode("cp1252", "replace"):
        return "cp1252"
    if _ONLY_LETTER_IN_WINDOWS_1250.search(sample):
        return "cp1250"
    from charset_normalizer import from_bytes

    # The library omits an encoding that it finds too unlikely.
    merits = {
        match.encoding: match.coherence - match.chaos
        for match in from_bytes(sample, cp_isolation=["cp1250", "cp1252"], enable_fallback=False)
    }
    return "cp1250" if merits.get("cp1250", 0) > max(0, merits.get("cp1252", 0)) else "cp1252"


def _is_koi8(sample: bytes) -> bool:
    """Return whether the words beyond ASCII are in the small letters of KOI8-R, which may be taken for Hebrew."""
    beyond = sample.translate(None, bytes(range(0x80)))
    return 5 * len(beyond.translate(None, _KOI8_LOWER_CASE)) < len(beyond)


def _has_words_beyond_ascii(sample: bytes) -> bool:
    """Return whether most bytes beyond ASCII stand together, as in Greek or Chinese, and not alone as in `Grüße`."""
    words = b"".join(_WORD_BEYOND_ASCII.findall(sample))
    beyond = len(sample.translate(None, bytes(range(0x80))))
    return 2 * len(words) > beyond and len(set(words)) >= MIN_DISTINCT_BYTES


def _from_first_byte_beyond_ascii(sample: bytes, path: Path) -> bytes:
    """Return a sample that holds bytes beyond ASCII, also where the first of them comes late in a long file."""
    if not sample.isascii():
        return sample
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            if not piece.isascii():
                at = next(position for position, byte in enumerate(piece) if byte > 0x7F)
                return piece[max(0, at - SAMPLE_BYTES // 2) : at + SAMPLE_BYTES // 2]
    return sample
