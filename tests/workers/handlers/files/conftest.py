from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.workers.handlers.files.fixtures import Encode, ReadData
from workers.adapters.memory_context import MemoryContext

DATA = Path(__file__).parents[3] / "data"


@pytest.fixture
def context(tmp_path: Path) -> MemoryContext:
    """An attempt without a database."""
    return MemoryContext(tmp_path)


@pytest.fixture
def read_data() -> ReadData:
    """Reads a file of `tests/data`."""
    return lambda name: (DATA / name).read_bytes()


@pytest.fixture
def encode() -> Encode:
    """Encodes an image of Pillow, with the options of its `save`."""

    def encode_image(image: Image.Image, format: str, **options: object) -> bytes:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()

    return encode_image


@pytest.fixture
def png_bomb() -> bytes:
    """A PNG of a few KiB whose header claims 3.6 gigapixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = height = 60_000
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    deflate = zlib.compressobj(9)
    row_group = bytes(1 << 20)
    pixels = b"".join(deflate.compress(row_group) for _ in range(8)) + deflate.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
