"""Identifiers that sort by age."""

from __future__ import annotations

import os
import threading
import time
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

_TICKS_IN_A_MILLISECOND: Final = 1 << 12
_MOST_MILLISECONDS: Final = (1 << 48) - 1
_lock: Final = threading.Lock()
_last_tick = 0


def new_id() -> UUID:
    """Make a UUIDv7 (RFC 9562, section 5.7), greater than each that this process made before.

    After 48 bits of Unix milliseconds come 12 bits of their fractions (section 6.2, method 3), which run ahead of the
    clock where ids are made faster than that or the clock is set back; then 62 random bits.
    """
    global _last_tick
    tick = time.time_ns() * _TICKS_IN_A_MILLISECOND // 1_000_000
    with _lock:
        tick = max(tick, _last_tick + 1)
        _last_tick = tick
    milliseconds, fraction = divmod(tick, _TICKS_IN_A_MILLISECOND)
    random_bits = int.from_bytes(os.urandom(8), "big") >> 2
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0x2 << 62 | random_bits)


def least_id(since: datetime | None, later: timedelta = timedelta(0)) -> UUID:
    """Give the least identifier of that time, or of so much later: an id begins with the milliseconds."""
    if since is None:
        return UUID(int=0)
    milliseconds = int((since.timestamp() + later.total_seconds()) * 1000)
    return UUID(int=min(max(0, milliseconds), _MOST_MILLISECONDS) << 80)
