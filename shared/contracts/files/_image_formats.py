"""The image formats that Taskmill knows. To add one, add a row to `IMAGE_FORMATS`.

A new format also needs its first bytes in `shared/media_types.py` and, if pictures are written in it, its options in `_save`
of `workers/handlers/files/_make_images.py`. Tests run over every row.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

OutputFormat = Literal["jpeg", "png", "webp", "avif"]

MOST_PIXELS: Final = 200_000_000
"""Pixels of one frame, read or written. At four bytes each, a limited child of 2 GiB can hold so many once."""


class Writing(NamedTuple):
    """How a format is written."""

    extension: str
    longest_edge: int
    """The largest width or height, in pixels."""
    quality: int | None
    """The default quality, from 1 to 100. None for a lossless format."""


class ImageFormat(NamedTuple):
    """An image format: its name is the media type without `image/`."""

    name: str
    loader: str | None
    """The operation of libvips that reads it. None for a format that Pillow reads."""
    is_decoded: bool = True
    """Whether its pixels can be read, and not only its header."""
    writing: Writing | None = None

    @property
    def media_type(self) -> str:
        """The media type."""
        return f"image/{self.name}"


IMAGE_FORMATS: Final = {
    image_format.media_type: image_format
    for image_format in (
        # JPEG_MAX_DIMENSION of libjpeg.
        ImageFormat("jpeg", "jpegload", writing=Writing("jpg", 65_500, 82)),
        ImageFormat("png", "pngload", writing=Writing("png", 65_500, None)),
        # RFC 9649, 2.1.
        ImageFormat("webp", "webpload", writing=Writing("webp", 16_383, 80)),
        # The largest side that the writer of libvips accepts.
        ImageFormat("avif", "heifload", writing=Writing("avif", 16_384, 55)),
        ImageFormat("gif", "gifload"),
        ImageFormat("tiff", "tiffload"),
        ImageFormat("bmp", None),
        # The wheel's libheif decodes AV1 and not HEVC.
        ImageFormat("heic", "heifload", is_decoded=False),
        ImageFormat("heif", "heifload", is_decoded=False),
    )
}

DECODED_TYPES: Final = tuple(media_type for media_type, known in IMAGE_FORMATS.items() if known.is_decoded)


def find_writing(output_format: OutputFormat) -> Writing:
    """Return how an output format is written."""
    writing = IMAGE_FORMATS[f"image/{output_format}"].writing
    assert writing is not None
    return writing


assert {known.name for known in IMAGE_FORMATS.values() if known.writing} == set(get_args(OutputFormat))
