"""Tells the process that supervises a part that the part works now, as sd_notify(3) defines it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
READY: Final = b"READY=1"


def notify_ready() -> None:
    """Send `READY=1` to the socket that `NOTIFY_SOCKET` names. Do nothing when it is unset or nobody listens."""
    address = os.environ.get(VARIABLE)
    if not address or address[0] not in "/@":
        return
    # An @ stands for the zero byte of Linux' abstract namespace.
    address = "\0" + address[1:] if address[0] == "@" else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.connect(address)
        notices.send(READY)
