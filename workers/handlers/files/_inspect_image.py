"""The child's side of `files.inspect` for pictures."""

from __future__ import annotations

from collections.abc import Callable
from os import SEEK_CUR
from pathlib import Path
from typing import Any

from workers.handlers.files._pictures import Header, open_pixels, read_header, told_from_vips

MOST_EXIF_FIELDS = 300
LONGEST_EXIF_TEXT = 1000
_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD = 0x8769, 0x8825, 0xA005
_MAKER_NOTE = 0x927C
_PNG_SIGNATURE_BYTES, _PNG_CHECKSUM_BYTES = 8, 4
_FORMATS_NOT_DECODED = frozenset({"image/heic", "image/heif"})


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Tell what the picture at `path`, of type `media_type`, is; with `include_gps`, also where it was taken."""
    header = read_header(request["path"], request["media_type"])
    _read_to_the_end(header)
    return {
        "width": header.width,
        "height": header.height,
        "format": header.media_type.removeprefix("image/"),
        "frames": _count_frames(header),
        "orientation": header.orientation,
        "has_alpha": header.has_alpha,
        "exif": _read_exif(header.exif, request["include_gps"]) if header.exif else {},
    }


def _count_frames(header: Header) -> int:
    """Count what libvips does not, which reads the first frame of a PNG or an AVIF and tells of no other."""
    match header.media_type:
        case "image/png":
            return _count_png_frames(header.path)
        case "image/avif":
            return _count_avif_frames(header.path)
        case _:
            return header.frames


def _count_png_frames(path: str) -> int:
    """Count the frame control chunks (PNG, third edition, section 11.3.6.2): how many are announced may be a lie."""
    frames = 0
    with Path(path).open("rb") as file:
        file.seek(_PNG_SIGNATURE_BYTES)
        while len(head := file.read(8)) == 8:
            frames += head[4:] == b"fcTL"
            file.seek(int.from_bytes(head[:4], "big") + _PNG_CHECKSUM_BYTES, SEEK_CUR)
    return max(1, frames)


def _count_avif_frames(path: str) -> int:
    from PIL import AvifImagePlugin, Image

    # Pillow's own guard against bombs is lower than ours, by which the picture was judged.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with AvifImagePlugin.AvifImageFile(path) as picture:
            return max(1, int(picture.n_frames))
    except (OSError, SyntaxError, ValueError):
        # Pillow refuses more than libvips does, which has read the first.
        return 1


def _read_to_the_end(header: Header) -> None:
    if header.media_type in _FORMATS_NOT_DECODED:
        # The wheel's libheif has no decoder for HEVC, only for AV1.
        return
    with told_from_vips():
        # An eighth of a JPEG's size spares the transform of most of it, and still reads every byte.
        shrink = {"shrink": 8} if header.media_type == "image/jpeg" and min(header.width, header.height) >= 8 else {}
        open_pixels(header, **shrink).avg()


def _read_exif(data: bytes, include_gps: bool) -> dict[str, Any]:
    """Give the EXIF fields by name (EXIF 2.32, CIPA DC-008); what is not understood is left out, never an error."""
    from PIL import ExifTags, Image

    exif = Image.Exif()
    fields: dict[str, Any] = {}
    try:
        exif.load(data)
        whole = [(dict(exif), ExifTags.TAGS), (exif.get_ifd(_EXIF_IFD), ExifTags.TAGS)]
        for directory, names in whole:
            fields.update(_name_fields(directory, names))
        if include_gps and (gps := _name_fields(exif.get_ifd(_GPS_IFD), ExifTags.GPSTAGS)):
            fields["GPSInfo"] = gps
    except MemoryError:
        raise
    except Exception:
        # Pillow raises whatever a damaged directory leads it to: ValueError, struct.error, KeyError, SyntaxError.
        return fields
    return fields


def _name_fields(directory: dict[int, Any], names: dict[int, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for tag, value in list(directory.items())[:MOST_EXIF_FIELDS]:
        plain = _plain(value)
        if tag in names and tag not in (_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD, _MAKER_NOTE) and plain is not None:
            fields[names[tag]] = plain
    return fields


def _plain(value: Any) -> Any:
    """Give a value as JSON can hold it, or None."""
    if isinstance(value, bytes):
        return _plain_bytes(value)
    if isinstance(value, str):
        return value.split("\0")[0].strip()[:LONGEST_EXIF_TEXT]
    if isinstance(value, int):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value[:100]]
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if abs(number) != float("inf") and number == number else None


def _plain_bytes(value: bytes) -> str | int | None:
    if len(value) == 1:
        return value[0]
    # A user comment names its character code in eight bytes before the text.
    text = value.removeprefix(b"ASCII\0\0\0").rstrip(b"\0 ")
    return text.decode("ascii")[:LONGEST_EXIF_TEXT] if text.isascii() and text.decode("ascii").isprintable() else None
