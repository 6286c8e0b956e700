"""Writes small pictures with kinds of pixels and chunks that libraries do not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

_TAG_WIDTH, _TAG_HEIGHT, _TAG_BITS, _TAG_COMPRESSION, _TAG_PHOTOMETRIC = 256, 257, 258, 259, 262
_TAG_STRIP_OFFSETS, _TAG_SAMPLES, _TAG_ROWS_PER_STRIP, _TAG_STRIP_BYTES = 273, 277, 278, 279
_TAG_PLANAR, _TAG_EXTRA_SAMPLES, _TAG_SAMPLE_FORMAT = 284, 338, 339


def tiff(
    width: int,
    height: int,
    strips: Sequence[bytes],
    *,
    bits: int,
    samples: int = 1,
    sample_format: int = 1,
    photometric: int = 1,
    planar: int = 1,
    compression: int = 1,
    extra_samples: Sequence[int] = (),
) -> bytes:
    """Return a little-endian TIFF 6.0 with these strips: one, or one for each plane if `planar` is 2."""
    header = 8
    offsets, at = [], header
    for strip in strips:
        offsets.append(at)
        at += len(strip) + len(strip) % 2
    entries: list[tuple[int, int, Sequence[int]]] = [
        (_TAG_WIDTH, 3, [width]),
        (_TAG_HEIGHT, 3, [height]),
        (_TAG_BITS, 3, [bits] * samples),
        (_TAG_COMPRESSION, 3, [compression]),
        (_TAG_PHOTOMETRIC, 3, [photometric]),
        (_TAG_STRIP_OFFSETS, 4, offsets),
        (_TAG_SAMPLES, 3, [samples]),
        (_TAG_ROWS_PER_STRIP, 3, [height]),
        (_TAG_STRIP_BYTES, 4, [len(strip) for strip in strips]),
        (_TAG_PLANAR, 3, [planar]),
        *([(_TAG_EXTRA_SAMPLES, 3, extra_samples)] if extra_samples else []),
        (_TAG_SAMPLE_FORMAT, 3, [sample_format] * samples),
    ]
    directory_at = at
    values_at = directory_at + 2 + 12 * len(entries) + 4
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, kind, numbers in entries:
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            field = struct.pack("<I", values_at + len(values))
            values += packed
        else:
            field = packed.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, kind, len(numbers)) + field
    body = b"".join(strip + bytes(len(strip) % 2) for strip in strips)
    return struct.pack("<2sHI", b"II", 42, directory_at) + body + directory + bytes(4) + values


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG (third edition, 5.3)."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def insert_png_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Return the PNG with chunks right after its header chunk."""
    end_of_header = 8 + 25
    return png[:end_of_header] + b"".join(chunks) + png[end_of_header:]


def gif(canvas: tuple[int, int], frame: tuple[int, int, int, int], *, transparent: bool = False) -> bytes:
    """Return a GIF89a whose one frame, all red, stands at left, top, width, height of the canvas.

    The palette is blue, red, green, white; blue is the background colour.
    """
    palette = bytes([0, 0, 255, 255, 0, 0, 0, 160, 0, 255, 255, 255])
    left, top, width, height = frame
    # With a clear code before every pixel, codes of three bits never grow.
    codes = [code for _ in range(width * height) for code in (4, 1)] + [5]
    bits = "".join(f"{code:03b}"[::-1] for code in codes)
    data = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    control = b"\x21\xf9\x04\x01\0\0\0\0" if transparent else b""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *canvas, 0b1000_0001, 0, 0)
        + palette
        + control
        + b"\x2c"
        + struct.pack("<HHHHB", left, top, width, height, 0)
        + b"\x02"
        + blocks
        + b"\0\x3b"
    )
