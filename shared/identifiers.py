"""Identifiers that sort by age."""

from __future__ import annotations

import os
import time
from uuid import UUID


def new_id() -> UUID:
    """Make a UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    bits = milliseconds << 80 | random_bits
    bits = bits & ~(0xF << 76) | 0x7 << 76
    return UUID(int=bits & ~(0x3 << 62) | 0x2 << 62)
