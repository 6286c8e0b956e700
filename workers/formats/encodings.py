"""Finds the encoding of a text and reads the text piece by piece, in a limited child."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from shared.contracts.text_encodings import find_codec
from shared.unicode_text import find_marked_codec, find_unmarked_codec
from workers.formats.latin_letters import Likelihood, rate_reading

DECODED_PIECE_BYTES = 1 << 20
HEAD_BYTES = 64 << 10
"""How much of a text is read to recognize UTF-16 without a byte order mark."""
SAMPLE_BYTES = 256 << 10
"""How much of a text is read to guess its encoding."""

_LATIN_CODECS = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2", "cp850", "mac_roman", "cp852", "cp1258")
"""Encodings of Latin letters, the commonest first; of readings that are as likely, the first is taken."""

_CODECS_BY_GUESS = {"KOI8-U": ("koi8_r", "koi8_u"), "ISO-8859-8": ("cp1255", "iso8859_8"), "cp874": ("cp874",)}
"""What is taken for some guesses of the library: of several codecs that read the text alike, the first."""

_RUN_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
_LONG_RUN_BYTES = 3
_RUN_BESIDE_ASCII_LETTER = re.compile(rb"(?<=[A-Za-z])[\x80-\xff]+|[\x80-\xff]+(?=[A-Za-z])")
_CAPITAL_OF_WINDOWS_1251 = re.compile(rb"(?<![\xc0-\xff])[\xc0-\xd3][\xe0-\xff]")
"""A capital and a small letter of Russian; in Hebrew, the first byte is a vowel, which no word begins with."""

_SIGNS_OF_WINDOWS_1252 = "€£¥§©®°±²³µ·¼½¾«»“”‘’„–—…•™×÷".encode("cp1252")
_MOST_KINDS_OF_SIGNS = 2
_WITHOUT_MEANING_IN_WINDOWS_1252 = b"\x81\x8d\x8f\x90\x9d"

_WINDOWS_1252 = "".join(
    bytes([byte]).decode("latin-1" if byte in _WITHOUT_MEANING_IN_WINDOWS_1252 else "cp1252") for byte in range(256)
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


_CODECS_WITHOUT_ORDER = frozenset({"utf-16", "utf-32"})
_IANA_NAMES = {
    "big5hkscs": "big5",
    "cp437": "ibm437",
    "cp850": "ibm850",
    "cp852": "ibm852",
    "cp866": "ibm866",
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

    1. A byte order mark decides, and without one the null bytes of UTF-16 and UTF-32.
    2. Bytes that are valid UTF-8, and so ASCII, are UTF-8. So are those in which at least as many letters beyond ASCII
       are valid UTF-8 as bytes are not: a file with a damaged byte, or one that is cut within its last letter.
    3. A text in Latin letters has the encoding in which its letters are those of one language, as `rate_reading` finds.
       Of several such encodings the statistics of step 4 choose, or else it is windows-1252, which contains Latin-1 and
       which the WHATWG Encoding Standard falls back on.
    4. Any other text has the encoding that is the likeliest by the statistics of its letters.

    Raises `NotText` for bytes that are not text, or not valid in the requested encoding.
    """
    path = Path(path)
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    mark, found = find_marked_codec(head), find_marked_codec(head) or find_unmarked_codec(head)
    if requested is not None:
        return _check_requested(path, requested, mark, found)
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


def _check_requested(path: Path, label: str, codec_of_mark: str | None, codec_found: str | None) -> Encoding:
    codec = find_codec(label)
    assert codec is not None, "the contract refuses unknown encodings"
    if codec in _CODECS_WITHOUT_ORDER and codec_found is not None and codec_found.startswith(codec):
        # Without a mark, Python would take the byte order of the machine.
        codec = codec_found
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
    replacements: int = 0
    replaced_bytes: int = 0


def _count_replaced(path: Path, codec: str) -> _Count:
    count = _Count()
    before = _COUNT.set(count)
    try:
        for piece in _decode(path, codec, _COUNT_AND_REPLACE):
            if not piece.isascii():
                count.letters_beyond_ascii += len(piece) - len(piece.encode("ascii", "ignore"))
    finally:
        _COUNT.reset(before)
    count.letters_beyond_ascii -= count.replacements
    return count


_COUNT: ContextVar[_Count] = ContextVar("count")
"""Where the error handler of a thread counts: handlers are registered for the whole process, in which threads decode."""
_COUNT_AND_REPLACE = "taskmill-count-and-replace"


def _count_and_replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError), "nothing is encoded with it"
    count = _COUNT.get()
    count.replaced_bytes += error.end - error.start
    count.replacements += 1
    return "\ufffd", error.end


codecs.register_error(_COUNT_AND_REPLACE, _count_and_replace)


def _decode(path: Path, codec: str, errors: str) -> Iterator[str]:
    decode = _decode_windows_1252 if codec == "cp1252" else codecs.getincrementaldecoder(codec)(errors).decode
    with path.open("rb") as stream:
        while piece := stream.read(DECODED_PIECE_BYTES):
            yield decode(piece, False)
    yield decode(b"", True)


def _decode_windows_1252(piece: bytes, final: bool = False) -> str:
    return codecs.charmap_decode(piece, "strict", _WINDOWS_1252)[0]


def _guess(path: Path) -> str:
    with path.open("rb") as stream:
        sample = _from_first_byte_beyond_ascii(stream.read(SAMPLE_BYTES), path)
    if b"\0" in sample:
        raise NotText("it is not text in a known encoding.")
    guess = _guess_by_statistics(sample)
    if _has_few_signs_only(sample):
        return "cp1252"
    if guess in _LATIN_CODECS or _is_in_latin_letters(sample):
        return _choose_latin(sample, guess)
    if guess == "cp1255" and _CAPITAL_OF_WINDOWS_1251.search(sample):
        return "cp1251"
    return guess


def _guess_by_statistics(sample: bytes) -> str:
    """Return the codec that chardetng, the detector of Firefox, finds likeliest among the encodings of the Web."""
    from chardetng_py import EncodingDetector

    detector = EncodingDetector()
    detector.feed(sample, last=True)
    label = detector.guess(tld=None, allow_utf8=False)
    codec = find_codec(label)
    assert codec is not None, "the library knows the encodings of the Encoding Standard only"
    alike = _CODECS_BY_GUESS.get(label, (codec,))
    text = sample.decode(alike[-1], "replace")
    return next(codec for codec in alike if sample.decode(codec, "replace") == text)


def _choose_latin(sample: bytes, guess: str) -> str:
    """Return the encoding in which a text in Latin letters makes the likeliest words, `guess` if there are several."""
    codecs_tried = [guess, *_LATIN_CODECS] if guess in _LATIN_CODECS else list(_LATIN_CODECS)
    ratings = {codec: rate_reading(_decode_sample(sample, codec)) for codec in codecs_tried}
    likeliest = max(codecs_tried, key=lambda codec: ratings[codec])
    return guess if ratings[likeliest] is Likelihood.UNLIKELY else _prefer_windows_1252(sample, likeliest)


def _prefer_windows_1252(sample: bytes, codec: str) -> str:
    """Return the codec, or `cp1252` where it reads the same."""
    return "cp1252" if _decode_sample(sample, codec) == _decode_sample(sample, "cp1252") else codec


def _decode_sample(sample: bytes, codec: str) -> str:
    return _decode_windows_1252(sample) if codec == "cp1252" else sample.decode(codec, "replace")


def _is_in_latin_letters(sample: bytes) -> bool:
    """Return whether the bytes beyond ASCII are letters among those of ASCII, as in `Grüße`.

    In Greek or Chinese most of them stand in long runs, and few runs stand beside a letter of ASCII.
    """
    runs = _RUN_BEYOND_ASCII.findall(sample)
    in_long_runs = sum(len(run) for run in runs if len(run) >= _LONG_RUN_BYTES)
    beside_letters = len(_RUN_BESIDE_ASCII_LETTER.findall(sample))
    return 2 * in_long_runs < sum(map(len, runs)) and 2 * beside_letters >= len(runs)


def _has_few_signs_only(sample: bytes) -> bool:
    """Return whether all that is beyond ASCII is one sign of windows-1252 or two, such as quotation marks.

    One of the two may be a byte that has no meaning there, if neither stands beside a letter: in other encodings it is one.
    """
    beyond = sample.translate(None, bytes(range(0x80)))
    others = beyond.translate(None, _SIGNS_OF_WINDOWS_1252)
    if len(set(beyond)) > _MOST_KINDS_OF_SIGNS or others == beyond:
        return False
    return not others or (
        not others.translate(None, _WITHOUT_MEANING_IN_WINDOWS_1252) and not _RUN_BESIDE_ASCII_LETTER.search(sample)
    )


def _from_first_byte_beyond_ascii(sample: bytes, path: Path) -> bytes:
    """Return a sample that holds bytes beyond ASCII, also where the first of them comes late in a long file."""
    if not sample.isascii():
        return sample
    with path.open("rb") as stream:
        while piece := stream.read(DECODED_PIECE_BYTES):
            if not piece.isascii():
                at = next(position for position, byte in enumerate(piece) if byte > 0x7F)
                return piece[max(0, at - SAMPLE_BYTES // 2) : at + SAMPLE_BYTES // 2]
    return sample
