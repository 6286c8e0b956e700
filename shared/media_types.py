"""Detects the media type of a file from its first bytes, and makes file names safe.

The signatures are those of the specifications: JPEG (ITU-T T.81, B.1.1), PNG (W3C PNG, 5.2), GIF89a,
WebP (RFC 9649), TIFF 6.0, ISO base media files (ISO/IEC 14496-12, 4.3) with the brands of HEIF (ISO/IEC 23008-12) and
AVIF, PDF (ISO 32000-2, 7.5.2), Parquet, ZIP (APPNOTE 4.3) with Office Open XML and OpenDocument in it, gzip (RFC 1952).
Text and HTML are recognized as in the WHATWG MIME Sniffing Standard (7.1 and 3, "binary data byte").
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from shared.unicode_text import find_marked_codec, find_unmarked_codec

HEAD_BYTES = 64 << 10
"""How many of the first bytes `detect_media_type` reads."""

UNKNOWN = "application/octet-stream"

_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"PAR1", "application/vnd.apache.parquet"),
    (b"PARE", "application/vnd.apache.parquet"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"\xfd7zXZ\x00", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
)
_PDF_HEADER = re.compile(rb"%PDF-\d\.\d(?=\s)")
_PDF_OBJECT = re.compile(rb"[\r\n]\d{1,10} \d{1,5} obj\b")
_DIB_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"heis": "image/heic",
    b"hevc": "image/heic",
    b"hevx": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
    b"qt  ": "video/quicktime",
    b"isom": "video/mp4",
    b"iso2": "video/mp4",
    b"mp41": "video/mp4",
    b"mp42": "video/mp4",
    b"avc1": "video/mp4",
    b"M4V ": "video/mp4",
    b"M4A ": "audio/mp4",
}
_OFFICE_FOLDERS = (
    (b"xl/", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (b"word/", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (b"ppt/", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
)
_BINARY_BYTES = bytes([*range(0x09), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)])
# No two adjacent parts of these expressions match the same character, so that untrusted text is matched in linear time.
_MARKUP_TO_SKIP = re.compile(
    r"\s*(?:<\?xml[^>]*\?>|<!--.*?-->|<!DOCTYPE\s+svg\b[^>\[]*(?:\[[^\]]*\]\s*)?>)", re.S | re.I
)
_HTML_START = re.compile(
    r"<(?:!DOCTYPE\s+html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)(?=[\s>/])", re.I
)
_SVG_START = re.compile(r"<(?:\w+:)?svg(?=[\s>])")
_JSON_TOKEN = re.compile(
    r"[ \t\r\n]*([{}\[\],:]|\"(?:[^\"\\\x00-\x1f]|\\.)*\"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)"
)
_JSON_LOOKED_AT = 4096
_CSV_DELIMITERS = ",;\t|"
_CSV_LINES_LOOKED_AT = 50
_TEXT_TYPES_BY_ENDING = {
    ".csv": "text/csv",
    ".tsv": "text/csv",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".json": "application/json",
    ".jsonl": "application/json",
    ".ndjson": "application/json",
}
_JSON_START = re.compile(
    r"(?:\s|//[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*"
    r"(?:\{\s*(?:[\"'}]|[A-Za-z_$][\w$]*\s*:)"
    r"|\[\s*(?:[\[{\"'\]]|(?:true|false|null|True|False|None|undefined|NaN)\b|-?[0-9]+(?:\.[0-9]+)?\s*,))"
)


def detect_media_type(head: bytes, name: str | None = None) -> str:
    """Return the media type of a file from its first `HEAD_BYTES` bytes. Raises nothing.

    The extension of the name decides between kinds of plain text, and is ignored otherwise. Values with any separator
    are `text/csv`, and lines of JSON are `application/json`. Text that begins as JSON is never `text/csv`, even if it is
    invalid further on. An unknown or empty file is `application/octet-stream`.
    """
    head = bytes(head[:HEAD_BYTES])
    return _detect_binary(head) or _detect_text(head, name) or UNKNOWN


def _detect_binary(head: bytes) -> str | None:
    for prefix, media_type in _PREFIXES:
        if head.startswith(prefix):
            return media_type
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}.get(head[8:12])
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _DIB_HEADER_SIZES:
        return "image/bmp"
    if head[4:8] == b"ftyp":
        return _detect_iso_media(head)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _detect_in_zip(head)
    # Readers accept a PDF whose header stands within the first 1,024 bytes (ISO 32000-1, Annex H, note 13).
    header = _PDF_HEADER.search(head, 0, 1024)
    return "application/pdf" if header and _PDF_OBJECT.search(head, header.end()) else None


def _detect_iso_media(head: bytes) -> str | None:
    size = min(int.from_bytes(head[:4], "big"), 256)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size, 4))]
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    # The brand `mif1` means any still picture. If there is another known brand, that one names the format.
    return next((media_type for media_type in known if media_type != "image/heif"), known[0] if known else None)


def _detect_in_zip(head: bytes) -> str:
    if head[30:38] == b"mimetype":
        declared = re.match(rb"application/(?:vnd\.oasis\.opendocument\.[a-z-]+|epub\+zip)", head[38:128])
        return declared.group().decode("ascii") if declared else "application/zip"
    if b"[Content_Types].xml" in head or b"_rels/.rels" in head:
        for folder, media_type in _OFFICE_FOLDERS:
            # The name of a member begins 30 bytes after the start of its local header (APPNOTE 4.3.7).
            if re.search(rb"PK\x03\x04.{26}" + folder, head, re.S):
                return media_type
    return "application/zip"


def _detect_text(head: bytes, name: str | None) -> str | None:
    text = _decode_text(head)
    if text is None or not text.strip():
        return "text/plain" if text else None
    start = text.lstrip()
    if start.startswith("<"):
        markup = _detect_markup(start)
        if markup:
            return markup
    whole = len(head) < HEAD_BYTES
    if _looks_like_json(start, whole):
        return "application/json"
    by_ending = _TEXT_TYPES_BY_ENDING.get(PurePosixPath(name or "").suffix.lower())
    media_type = by_ending or ("text/csv" if _looks_like_csv(text, whole) else "text/plain")
    return "application/json" if media_type == "text/csv" and begins_as_json(text) else media_type


def begins_as_json(text: str) -> bool:
    """Return whether a text begins as JSON does, valid or not.

    The first bracket or brace must be followed by what may follow it in JSON, in a literal of JavaScript or in what
    Python's `repr` writes, such as `[{'a': None}]`. Comments before it are skipped. `[Name];[City]` and
    `[2024-01-31] started` do not begin so.
    """
    return _JSON_START.match(text) is not None


def _decode_text(head: bytes) -> str | None:
    """Return the bytes as text, or None. The encoding is a rough guess, which is enough for a media type."""
    if (codec := find_marked_codec(head) or find_unmarked_codec(head)) is not None:
        try:
            return codecs.getincrementaldecoder(codec)().decode(head)
        except UnicodeError:
            return None
    if head.translate(None, _BINARY_BYTES) != head:
        return None
    try:
        # The last character may be cut off. An incremental decoder does not take that for an error.
        return codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeError:
        return head.decode("latin-1")


def _detect_markup(start: str) -> str | None:
    is_xml = start.startswith("<?xml")
    position = 0
    while skipped := _MARKUP_TO_SKIP.match(start, position):
        position = skipped.end()
    start = start[position:].lstrip()
    if _SVG_START.match(start):
        return "image/svg+xml"
    if _HTML_START.match(start):
        return "text/html"
    return "text/xml" if is_xml else None


def _looks_like_json(start: str, whole: bool) -> bool:
    """Return whether text is JSON or lines of JSON. Of a long text, only the first tokens are examined."""
    if start[0] not in "{[":
        return False
    if whole:
        try:
            json.loads(start)
        except (ValueError, RecursionError):
            pass
        else:
            return True
    position, before = 0, ""
    while position < min(len(start), _JSON_LOOKED_AT):
        token = _JSON_TOKEN.match(start, position)
        if token is None:
            rest = start[position:].strip()
            return not rest or (not whole and _is_cut_token(rest))
        found = token.group(1)
        if before == "{" and found[0] not in '"}':
            return False
        if before == "[" and found in (",", ":", "}"):
            return False
        position, before = token.end(), found
    return True


def _is_cut_token(rest: str) -> bool:
    return rest.startswith('"') and '"' not in rest[1:].replace('\\"', "")


def _looks_like_csv(text: str, whole: bool) -> bool:
    """Return whether there are at least two lines, and the first ones all have the same number of separators."""
    lines = text.splitlines(keepends=True)
    cut = not whole or len(lines) > _CSV_LINES_LOOKED_AT
    return any(_is_regular(lines[:_CSV_LINES_LOOKED_AT], delimiter, cut) for delimiter in _CSV_DELIMITERS)


def _is_regular(lines: Iterable[str], delimiter: str, cut: bool) -> bool:
    try:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return False
    if cut and len(widths) > 2:
        # The last row, or a quoted field in it, may continue beyond the lines that are examined.
        widths.pop()
    return len(widths) >= 2 and widths[0] >= 2 and set(widths) == {widths[0]}


LONGEST_NAME_CHARACTERS = 150
LONGEST_NAME_BYTES = 255
_RESERVED = re.compile(r'[<>:"|?*]')
_NOT_VISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
_STRAY_JOINERS = re.compile(r"(?:^|(?<=[\s._\u200c\u200d]))[\u200c\u200d]+|[\u200c\u200d]+(?=[\s._\u200c\u200d]|$)")
"""Joiners that do not stand alone between two visible characters."""
_EXTENSION = re.compile(r"\.[^\s.]{1,16}$")


def safe_file_name(name: str | None) -> str:
    """Return a form of a file's name that can be shown, logged and saved anywhere, and is never empty.

    - Folders are removed, whether `/` or `\\` separates them.
    - Control and format characters are removed (the Unicode categories Cc, Cf, Cs, Co and Cn). Among them are the
      bidirectional overrides, which make `exe` look like `txt` (UTS #39). Joiners between two visible characters stay:
      some scripts need them within words.
    - Letters are composed (NFC, UAX #15), and characters that file systems reserve become `_`.
    - The name is cut to 150 characters and 255 bytes, and keeps its extension.
    """
    base = re.split(r"[/\\]", name or "")[-1]
    visible = "".join(c for c in base if unicodedata.category(c) not in _NOT_VISIBLE or c in _JOINERS)
    composed = unicodedata.normalize("NFC", _RESERVED.sub("_", visible))
    cleaned = re.sub(r"\s+", " ", _STRAY_JOINERS.sub("", composed)).strip().rstrip(". ")
    if not cleaned.strip(". "):
        return "file"
    return _cut(cleaned)


def _cut(name: str) -> str:
    if len(name) <= LONGEST_NAME_CHARACTERS and len(name.encode()) <= LONGEST_NAME_BYTES:
        return name
    found = _EXTENSION.search(name)
    extension = found.group() if found and found.start() > 0 else ""
    stem = name[: len(name) - len(extension)][: LONGEST_NAME_CHARACTERS - len(extension)]
    room = LONGEST_NAME_BYTES - len(extension.encode())
    stem = stem.encode()[:room].decode(errors="ignore")
    return stem.rstrip(". " + _JOINERS) + extension
