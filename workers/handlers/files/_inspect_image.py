"""The child's side of `files.inspect` for pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.contracts.files._image_formats import IMAGE_FORMATS
from workers.handlers.files._pictures import Header, open_pixels, read_header, reading_pixels
from workers.handlers.files._png import count_frames

MOST_EXIF_FIELDS = 300
LONGEST_EXIF_TEXT = 1000
_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD = 0x8769, 0x8825, 0xA005
_MAKER_NOTE = 0x927C


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Return the facts of the picture at `path`, of type `media_type`; with `include_gps`, also where it was taken."""
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
    """Return the number of frames, also of a PNG and an AVIF, of which libvips knows the first frame only."""
    match header.media_type:
        case "image/png":
            return count_frames(header.path)
        case "image/avif":
            return _count_avif_frames(header.path)
        case _:
            return header.frames


def _count_avif_frames(path: str) -> int:
    from PIL import AvifImagePlugin, Image

    # Pillow's own limit of pixels is lower than the one by which the picture was judged.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with AvifImagePlugin.AvifImageFile(path) as picture:
            return max(1, int(picture.n_frames))
    except (OSError, SyntaxError, ValueError):
        # Pillow refuses files of which libvips has read the first frame.
        return 1


def _read_to_the_end(header: Header) -> None:
    """Raise an error if the first frame is damaged. Kinds of pixels that cannot be decoded are not read."""
    is_decoded = IMAGE_FORMATS[header.media_type].is_decoded
    if not is_decoded or (header.tiff is not None and header.tiff.describe_unsupported()):
        return
    with reading_pixels():
        # An eighth of a JPEG's size spares the transform of most of it, and still reads every byte.
        shrink = {"shrink": 8} if header.media_type == "image/jpeg" and min(header.width, header.height) >= 8 else {}
        # The average of numbers would fail where one of the samples is none (NaN).
        open_pixels(header, **shrink).cast("uchar").avg()


def _read_exif(data: bytes, include_gps: bool) -> dict[str, Any]:
    """Return the EXIF fields by name (EXIF 2.32, CIPA DC-008), without those that cannot be read."""
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
        # For a damaged directory, Pillow raises many types: ValueError, struct.error, KeyError, SyntaxError.
        return fields
    return fields


def _name_fields(directory: dict[int, Any], names: dict[int, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for tag, value in list(directory.items())[:MOST_EXIF_FIELDS]:
        plain = _to_json_value(value)
        if tag in names and tag not in (_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD, _MAKER_NOTE) and plain is not None:
            fields[names[tag]] = plain
    return fields


def _to_json_value(value: Any) -> Any:
    """Return a value as JSON can hold it, None if it cannot."""
    if isinstance(value, bytes):
        return _to_text_or_number(value)
    if isinstance(value, str):
        return value.split("\0")[0].strip()[:LONGEST_EXIF_TEXT]
    if isinstance(value, int):
        return value
    if isinstance(value, (tuple, list)):
        return [_to_json_value(item) for item in value[:100]]
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if abs(number) != float("inf") and number == number else None


def _to_text_or_number(value: bytes) -> str | int | None:
    if len(value) == 1:
        return value[0]
    # A user comment names its character code in eight bytes before the text.
    text = value.removeprefix(b"ASCII\0\0\0").rstrip(b"\0 ")
    return text.decode("ascii")[:LONGEST_EXIF_TEXT] if text.isascii() and text.decode("ascii").isprintable() else None
