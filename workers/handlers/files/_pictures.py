"""Opens pictures in a limited child: the header first, and pixels only of a picture that is small enough.

The formats are those of `shared/contracts/files/_image_formats.py`. A file is read by the loader of its format alone, so
that no other parser sees its bytes. libvips reads them all, except for what it cannot read and Pillow can: BMP, TIFF in
CIELab with 8 bits, and the number of frames of an AVIF.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyvips

from shared.contracts.files._image_formats import IMAGE_FORMATS, MOST_PIXELS
from workers.handlers.files._errors import image_too_large, unreadable_image, unsupported_image
from workers.handlers.files._gif import Frame, read_first_frame
from workers.handlers.files._tiff import YCBCR, TiffTags, map_with_orientation, read_tags
from workers.outcomes import Failed

_MEMORY_ERROR = re.compile(r"out of memory|allocat|malloc", re.IGNORECASE)
"""What libvips and the libraries below it report without memory; `copy_memory` is a function's name."""
_UNSUPPORTED_ERROR = re.compile(
    r"Unsupported JPEG (?:process|data precision)|arithmetic coding not supported"
    r"|support is not configured|Unsupported (?:codec|feature|color)",
    re.IGNORECASE,
)
"""What the libraries report for a whole file of a kind that they cannot read."""
_UPRIGHT = 1
"""The orientation of a picture that is stored as it is shown."""
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError)


class Header(NamedTuple):
    """What is known of a picture before a pixel is decoded."""

    path: str
    media_type: str
    width: int
    """As stored, like all numbers here."""
    height: int
    frames: int
    orientation: int
    """1 to 8, as in EXIF."""
    has_alpha: bool
    exif: bytes | None
    tiff: TiffTags | None = None
    """The tags, for a TIFF."""
    frame: Frame | None = None
    """The first frame, for a GIF where it leaves some of the canvas uncovered."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@contextmanager
def reading_pixels() -> Iterator[None]:
    """Raise `MemoryError` or a named error in the place of an error of libvips, whose text contains the path."""
    try:
        yield
    except pyvips.Error as error:
        raise _name_error(error) from None


def _name_error(error: pyvips.Error) -> Failed | MemoryError:
    if _MEMORY_ERROR.search(str(error)):
        return MemoryError()
    if _UNSUPPORTED_ERROR.search(str(error)):
        return unsupported_image("a way of coding pixels that Taskmill cannot read")
    return unreadable_image()


def read_header(path: str, media_type: str) -> Header:
    """Return a picture's header, decoding nothing.

    Raises `/problems/unreadable-image`, `/problems/unsupported-image` for a kind of pixels that cannot be read, and
    `/problems/image-too-large` for more than `MOST_PIXELS` in a frame.
    """
    match media_type:
        case "image/bmp":
            header = _read_bmp_header(path)
        case "image/tiff":
            header = _read_tiff_header(path)
        case "image/gif":
            header = _read_gif_header(path)
        case _:
            header = _read_vips_header(path, media_type)
    if header.width * header.height > MOST_PIXELS:
        raise image_too_large(header.width, header.height, MOST_PIXELS)
    return header


def require_supported(header: Header) -> None:
    """Raise `/problems/unsupported-image` if the pixels are of a kind that cannot be converted."""
    if header.tiff is not None and (kind := header.tiff.describe_unsupported()):
        raise unsupported_image(kind)


def _read_vips_header(path: str, media_type: str) -> Header:
    try:
        image = pyvips.Operation.call(IMAGE_FORMATS[media_type].loader, path)
        orientation = _find(image, "orientation")
        return Header(
            path,
            media_type,
            image.width,
            image.height,
            image.get_n_pages(),
            orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
            bool(image.hasalpha()),
            _find(image, "exif-data"),
        )
    except pyvips.Error as error:
        if _UNSUPPORTED_ERROR.search(str(error)):
            raise _name_error(error) from None
        # A header needs next to no memory: where a library lacks some to read it, the file lies about a length.
        raise unreadable_image() from None


def _find(image: Any, field: str) -> Any:
    return image.get(field) if image.get_typeof(field) else None


def _read_tiff_header(path: str) -> Header:
    tags = read_tags(path)
    if tags is not None and tags.is_lab_of_bytes:
        if kind := tags.describe_unsupported():
            raise unsupported_image(kind)
        return _read_lab_header(path, tags)
    try:
        header = _read_vips_header(path, "image/tiff")
    except Failed:
        if tags is not None and (kind := tags.describe_unsupported()):
            raise unsupported_image(kind) from None
        raise
    return header._replace(tiff=tags, has_alpha=header.has_alpha and not _has_made_up_alpha(tags))


def _has_made_up_alpha(tags: TiffTags | None) -> bool:
    """Return whether libvips adds an alpha channel that the file does not have, as it does for YCbCr."""
    return tags is not None and tags.photometric == YCBCR and tags.samples == 3


def _read_lab_header(path: str, tags: TiffTags) -> Header:
    from PIL import TiffImagePlugin

    try:
        with _pillow(TiffImagePlugin.TiffImageFile, path) as image:
            orientation = image.getexif().get(0x0112, 1)
            frames = int(image.n_frames)
    except _PILLOW_ERRORS:
        raise unreadable_image() from None
    orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return Header(path, "image/tiff", tags.width, tags.height, frames, orientation, False, None, tiff=tags)


def _read_gif_header(path: str) -> Header:
    header = _read_vips_header(path, "image/gif")
    frame = read_first_frame(path)
    if frame is None or frame.covers(header.width, header.height):
        return header
    # What the first frame does not cover is transparent.
    return header._replace(frame=frame, has_alpha=True)


def _read_bmp_header(path: str) -> Header:
    from PIL import BmpImagePlugin

    try:
        with _pillow(BmpImagePlugin.BmpImageFile, path) as image:
            return Header(path, "image/bmp", image.width, image.height, 1, 1, image.mode == "RGBA", None)
    except _PILLOW_ERRORS:
        raise unreadable_image() from None


@contextmanager
def _pillow(open_file: Any, path: str) -> Iterator[Any]:
    """Open a picture with one of Pillow's plugins, without Pillow's own limit of pixels, which is lower than ours."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_file(path) as image:
            yield image


def open_pixels(header: Header, **options: Any) -> Any:
    """Return the first frame as a libvips image that can be read once, from top to bottom.

    `options` are those of the loader, such as `shrink` for JPEG. Call this, and read the image, within
    `reading_pixels`: damage is found only when the pixels are read.
    """
    if header.media_type == "image/bmp":
        return _open_bmp_pixels(header)
    if header.tiff is not None and header.tiff.is_lab_of_bytes:
        return _open_lab_pixels(header)
    # "error" passes over the small faults that cameras leave, and finds what is cut short or broken.
    options = {**options, "access": "sequential", "fail_on": "error"}
    if header.tiff is not None and not header.tiff.has_valid_orientation:
        # An orientation that does not exist is an error for libtiff; other readers ignore it.
        image = pyvips.Operation.call("tiffload_buffer", map_with_orientation(header.path, _UPRIGHT), **options)
    else:
        image = pyvips.Operation.call(IMAGE_FORMATS[header.media_type].loader, header.path, **options)
    if header.frame is not None and not image.hasalpha():
        return image.bandjoin(_draw_coverage(header.frame, image.width, image.height))
    return image[:3] if _has_made_up_alpha(header.tiff) else image


def _draw_coverage(frame: Frame, width: int, height: int) -> Any:
    """Return an alpha channel that is opaque where the frame is."""
    seen_width, seen_height = min(frame.width, width - frame.left), min(frame.height, height - frame.top)
    opaque = pyvips.Image.black(max(1, seen_width), max(1, seen_height)).invert()
    if seen_width <= 0 or seen_height <= 0:
        opaque = opaque.invert()
    return opaque.embed(frame.left, frame.top, width, height)


def _open_bmp_pixels(header: Header) -> Any:
    from PIL import BmpImagePlugin

    try:
        with _pillow(BmpImagePlugin.BmpImageFile, header.path) as image:
            converted = image.convert("RGBA" if header.has_alpha else "RGB")
    except _PILLOW_ERRORS:
        raise unreadable_image() from None
    return _from_pillow(converted).copy(interpretation="srgb")


def _open_lab_pixels(header: Header) -> Any:
    from PIL import TiffImagePlugin

    try:
        with _pillow(TiffImagePlugin.TiffImageFile, header.path) as image:
            image.load()
            stored = _from_pillow(image)
    except _PILLOW_ERRORS:
        raise unreadable_image() from None
    lightness, a, b = stored[0] * (100 / 255), stored[1].copy(format="char"), stored[2].copy(format="char")
    return lightness.bandjoin([a, b]).copy(interpretation="lab")


def _from_pillow(image: Any) -> Any:
    return pyvips.Image.new_from_memory(image.tobytes(), *image.size, len(image.getbands()), "uchar")
