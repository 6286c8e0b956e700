"""Reads the tags of a TIFF that say what kind its samples are, which libvips does not pass on."""

from __future__ import annotations

import mmap
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

_WIDTH, _HEIGHT = 256, 257
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 258, 259, 262, 274
_SAMPLES, _PLANAR, _SAMPLE_FORMAT = 277, 284, 339
"""Numbers of tags (TIFF 6.0, appendix A)."""
MIN_IS_WHITE, YCBCR, CIE_LAB, ICC_LAB = 0, 6, 8, 9
"""Values of PhotometricInterpretation (TIFF 6.0; ICC_LAB from the TIFF Technical Notes of Adobe)."""
_SEPARATE_PLANES = 2
_READ_BITS = frozenset({1, 2, 4, 8, 16, 32})
_READ_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32771, 32773, 32946, 34676, 34677, 50001})
_COMPRESSIONS = {
    6: "old-style JPEG",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50002: "JPEG XL",
}
_NOT_CONVERTED = {
    10: "ITULab colours",
    32803: "raw values of a camera's sensor (CFA)",
    34892: "raw values of a camera's sensor (LinearRaw)",
}
_SAMPLE_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers"}


class TiffTags(NamedTuple):
    """The tags of a picture in a TIFF; what is absent has its default (TIFF 6.0, section 8)."""

    width: int
    height: int
    bits: tuple[int, ...]
    sample_format: int
    """1: unsigned, 2: signed, 3: floating point, 4: undefined, 5 and 6: complex."""
    photometric: int
    samples: int
    compression: int
    has_separate_planes: bool
    has_valid_orientation: bool = True
    """Whether the orientation is absent or one of the eight that there are."""

    @property
    def is_lab_of_bytes(self) -> bool:
        """Return whether it is CIELab with 8 bits per sample, which libvips cannot open."""
        return self.photometric == CIE_LAB and self.bits == (8,) * self.samples

    def describe_unsupported(self) -> str | None:
        """Return what about it cannot be converted, as the words after "has"; None if it can."""
        if self.sample_format in (5, 6):
            return "samples that are complex numbers"
        if len(set(self.bits)) > 1:
            return f"samples of unequal size ({', '.join(map(str, self.bits))} bits)"
        if self.bits[0] not in _READ_BITS:
            kind = _SAMPLE_FORMATS.get(self.sample_format, "numbers of an unknown kind")
            return f"samples that are {kind} of {self.bits[0]} bits"
        if self.photometric in _NOT_CONVERTED:
            return _NOT_CONVERTED[self.photometric]
        if self.photometric in (CIE_LAB, ICC_LAB) and self.samples < 3:
            return "Lab lightness without colours"
        if self.is_lab_of_bytes and (self.samples > 3 or self.has_separate_planes):
            return "Lab colours with further channels, or in separate planes"
        if self.compression not in _READ_COMPRESSIONS:
            name = _COMPRESSIONS.get(self.compression)
            return f"the compression {name}" if name else f"a compression with the number {self.compression}"
        return None


def read_tags(path: str) -> TiffTags | None:
    """Return the tags of the first picture, None if they cannot be read."""
    from PIL import TiffImagePlugin

    with Path(path).open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prefix = file.read(8)
        if prefix[2:3] == b"\x2b" or prefix[3:4] == b"\x2b":
            prefix += file.read(8)
        try:
            tags = TiffImagePlugin.ImageFileDirectory_v2(prefix)
            file.seek(tags.next)
            tags.load(file)
            return _name_tags(tags)
        except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
            # What Pillow raises for a damaged directory.
            return None


def map_with_orientation(path: str, orientation: int) -> mmap.mmap:
    """Return the content of a TIFF with another orientation in its first directory. The file stays as it is.

    Raises `struct.error` or `ValueError` for a directory that `read_tags` cannot read.
    """
    with Path(path).open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    order = "<" if content[:2] == b"II" else ">"
    (version,) = struct.unpack_from(f"{order}H", content, 2)
    layout = _BIG_DIRECTORY if version == _BIG_TIFF else _DIRECTORY
    (directory_at,) = struct.unpack_from(order + layout.offset_format, content, layout.offset_at)
    (count,) = struct.unpack_from(order + layout.count_format, content, directory_at)
    first_at = directory_at + struct.calcsize(order + layout.count_format)
    for entry_at in range(first_at, first_at + count * layout.entry_bytes, layout.entry_bytes):
        (tag,) = struct.unpack_from(f"{order}H", content, entry_at)
        if tag == _ORIENTATION:
            struct.pack_into(f"{order}H", content, entry_at + layout.value_at, orientation)
    return content


class _DirectoryLayout(NamedTuple):
    """Where a directory stands and how its entries are laid out: struct formats, and positions in bytes."""

    offset_at: int
    offset_format: str
    count_format: str
    entry_bytes: int
    value_at: int


_BIG_TIFF = 43
_DIRECTORY = _DirectoryLayout(offset_at=4, offset_format="I", count_format="H", entry_bytes=12, value_at=8)
_BIG_DIRECTORY = _DirectoryLayout(offset_at=8, offset_format="Q", count_format="Q", entry_bytes=20, value_at=12)


def _name_tags(tags: Any) -> TiffTags:
    samples = int(tags.get(_SAMPLES, 1))
    bits = tuple(int(each) for each in _tuple(tags.get(_BITS, 1)))
    if not 1 <= samples <= 65_535 or not bits:
        raise ValueError("no samples")
    return TiffTags(
        width=int(tags[_WIDTH]),
        height=int(tags[_HEIGHT]),
        bits=bits if len(bits) == samples else (bits[0],) * samples,
        sample_format=int(_tuple(tags.get(_SAMPLE_FORMAT, 1))[0]),
        photometric=int(tags.get(_PHOTOMETRIC, 1)),
        samples=samples,
        compression=int(tags.get(_COMPRESSION, 1)),
        has_separate_planes=tags.get(_PLANAR, 1) == _SEPARATE_PLANES,
        has_valid_orientation=tags.get(_ORIENTATION, 1) in range(1, 9),
    )


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
