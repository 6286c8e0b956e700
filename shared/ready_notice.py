"""Notifies the supervisor of a part that the part is ready, by the protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

NOTIFY_SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
READY: Final = b"READY=1"


def notify_ready() -> None:
    """Send `READY=1` to the socket that `NOTIFY_SOCKET` names. Does nothing if it is unset or no process listens."""
    address = os.environ.get(NOTIFY_SOCKET_VARIABLE)
    if not address or address[0] not in "/@":
        return
    # In an address of Linux' abstract namespace, an @ replaces the leading zero byte.
    address = "\0" + address[1:] if address[0] == "@" else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.connect(address)
        notices.send(READY)
