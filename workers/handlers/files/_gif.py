"""Reads the place of a GIF's first frame on its canvas."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

_EXTENSION, _IMAGE = b"\x21", b"\x2c"
_HAS_COLOUR_TABLE = 0x80


class Frame(NamedTuple):
    """The rectangle of a frame, in pixels of the canvas."""

    left: int
    top: int
    width: int
    height: int

    def covers(self, width: int, height: int) -> bool:
        """Return whether it covers a canvas of that size."""
        return self.left <= 0 and self.top <= 0 and self.width >= width and self.height >= height


def read_first_frame(path: str) -> Frame | None:
    """Return the rectangle of the first frame (GIF89a, section 20), None if there is none."""
    with Path(path).open("rb") as file:
        header = file.read(13)
        if len(header) == 13:
            _skip_colour_table(file, header[10])
        while (introducer := file.read(1)) == _EXTENSION:
            file.read(1)
            while (size := file.read(1)) not in (b"", b"\0"):
                file.seek(size[0], 1)
        descriptor = file.read(9)
    if introducer != _IMAGE or len(descriptor) < 9:
        return None
    left, top, width, height = (int.from_bytes(descriptor[at : at + 2], "little") for at in (0, 2, 4, 6))
    return Frame(left, top, width, height)


def _skip_colour_table(file: BinaryIO, flags: int) -> None:
    if flags & _HAS_COLOUR_TABLE:
        file.seek(3 << ((flags & 7) + 1), 1)
