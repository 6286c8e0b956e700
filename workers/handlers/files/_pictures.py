"""Opens pictures in a limited child: the header first, and pixels only of a picture that is small enough.

Each type has the one loader that is asked for, so that no other parser sees the bytes. Everything is read by libvips,
but for BMP, which it does not know and Pillow does, and the number of frames of an AVIF.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyvips

from workers.handlers.files._errors import image_too_large, unreadable_image

MOST_PIXELS = 200_000_000
"""Pixels of one frame. At four bytes each, that is what a child of 2 GiB can hold once."""

_LOADERS = {
    "image/jpeg": "jpegload",
    "image/png": "pngload",
    "image/webp": "webpload",
    "image/avif": "heifload",
    "image/heic": "heifload",
    "image/heif": "heifload",
    "image/gif": "gifload",
    "image/tiff": "tiffload",
}
_MEMORY_ERROR = re.compile(r"out of memory|allocat|malloc", re.IGNORECASE)
"""What libvips and the libraries below it say when there is none left; `copy_memory` is a function's name."""


class Header(NamedTuple):
    """What a picture says of itself before a pixel is decoded."""

    path: str
    media_type: str
    width: int
    """As stored, as all numbers here."""
    height: int
    frames: int
    orientation: int
    """1 to 8, as in EXIF."""
    has_alpha: bool
    exif: bytes | None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@contextmanager
def told_from_vips() -> Iterator[None]:
    """Raise `MemoryError` or `/problems/unreadable-image` in the place of libvips' own error, which names the path."""
    try:
        yield
    except pyvips.Error as error:
        if _MEMORY_ERROR.search(str(error)):
            raise MemoryError from None
        raise unreadable_image() from None


def read_header(path: str, media_type: str) -> Header:
    """Read a picture's header, decoding nothing.

    Raises `/problems/unreadable-image` and, for more than `MOST_PIXELS` in a frame, `/problems/image-too-large`.
    """
    header = _read_bmp_header(path) if media_type == "image/bmp" else _read_vips_header(path, media_type)
    if header.width * header.height > MOST_PIXELS:
        raise image_too_large(header.width, header.height, MOST_PIXELS)
    return header


def _read_vips_header(path: str, media_type: str) -> Header:
    try:
        image = pyvips.Operation.call(_LOADERS[media_type], path)
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
    except pyvips.Error:
        # A header needs next to no memory: where a library lacks some to read it, the file lies about a length.
        raise unreadable_image() from None


def _find(image: Any, field: str) -> Any:
    return image.get(field) if image.get_typeof(field) else None


def _read_bmp_header(path: str) -> Header:
    from PIL import BmpImagePlugin, Image

    # Pillow's own guard against bombs warns from half of this on; ours is judged by the caller.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with BmpImagePlugin.BmpImageFile(path) as image:
            return Header(path, "image/bmp", *image.size, 1, 1, image.mode == "RGBA", None)
    except (OSError, SyntaxError, ValueError):
        raise unreadable_image() from None


def open_pixels(header: Header, **options: Any) -> Any:
    """Give the first frame as a libvips image to be read from top to bottom once; what is damaged raises then.

    `options` are the loader's, such as `shrink` for JPEG. To be called, and read, within `told_from_vips`.
    """
    if header.media_type == "image/bmp":
        return _open_bmp_pixels(header)
    # "error" passes over the small faults that cameras leave, and finds what is cut short or broken.
    return pyvips.Operation.call(
        _LOADERS[header.media_type], header.path, access="sequential", fail_on="error", **options
    )


def _open_bmp_pixels(header: Header) -> Any:
    from PIL import BmpImagePlugin

    try:
        with warnings.catch_warnings(), BmpImagePlugin.BmpImageFile(header.path) as image:
            warnings.simplefilter("ignore")
            converted = image.convert("RGBA" if header.has_alpha else "RGB")
    except (OSError, SyntaxError, ValueError):
        raise unreadable_image() from None
    bands = len(converted.getbands())
    pixels = pyvips.Image.new_from_memory(converted.tobytes(), *converted.size, bands, "uchar")
    return pixels.copy(interpretation="srgb")
