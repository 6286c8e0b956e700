"""Chooses TCP ports."""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Container
from pathlib import Path

# Below the range from which Linux and macOS take ports for outgoing connections: a port that is chosen now and bound a
# moment later, or kept for the next start, is then not lost to some client.
_CHOICE = range(20_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server could listen there now."""
    try:
        try_to_listen(port, host)
    except OSError:
        return False
    return True


def try_to_listen(port: int, host: str = "127.0.0.1") -> None:
    """Listen on the port for a moment. Raises the `OSError` that a server would get."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Servers set this too; without it, connections that have just ended would make the port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)


def find_first_unprivileged_port() -> int:
    """Return the first port on which any account may listen; the ports below are for root."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii"))
    except OSError:
        return 1 if sys.platform == "darwin" else 1024


def is_of_this_machine(host: str) -> bool:
    """Return whether a server could listen at that address at all."""
    return is_free(0, host)


def choose_port(remembered: int | None = None, host: str = "127.0.0.1", promised: Container[int] = ()) -> int:
    """Return the remembered port if it is free, or else a free one. Raises `OSError` when none is found.

    A port that is promised to another server is not free, even if nothing listens there yet.
    """
    if remembered is not None and remembered not in promised and is_free(remembered, host):
        return remembered
    for _ in range(200):
        port = random.choice(_CHOICE)  # noqa: S311 - it only has to be spread, not secret.
        if port not in promised and is_free(port, host):
            return port
    raise OSError("no free port was found")
