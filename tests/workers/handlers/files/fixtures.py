"""The types of the fixtures of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import psutil
from PIL import Image

ReadData = Callable[[str], bytes]
LimitedChildren = Callable[[], list[psutil.Process]]


class Encode(Protocol):
    """Encodes an image of Pillow in a format, with the options of its `save`."""

    def __call__(self, image: Image.Image, format: str, **options: object) -> bytes: ...
