"""Identifiers that sort by the time at which they were made."""

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
    """Return a new UUIDv7 (RFC 9562, section 5.7), greater than every earlier one of this process.

    It has 48 bits of Unix milliseconds, 12 bits of a fraction of a millisecond (section 6.2, method 3) and 62 random
    bits. The fraction runs ahead of the clock when ids are made faster than it counts, or the clock is set back.
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
    """Return the least identifier of the time `since`, or of `later` after it; of the epoch without `since`."""
    if since is None:
        return UUID(int=0)
    milliseconds = int((since.timestamp() + later.total_seconds()) * 1000)
    return UUID(int=min(max(0, milliseconds), _MOST_MILLISECONDS) << 80)
