"""Choosing TCP ports on the loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Container

# Below the range from which Linux and macOS take ports for outgoing connections: a port that is chosen now and bound a
# moment later, or kept for the next start, is then not lost to some client.
_CHOICE = range(20_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Servers set this too; without it, connections that have just ended would make the port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def is_of_this_machine(host: str) -> bool:
    """Whether a server could listen at that address at all."""
    return is_free(0, host)


def choose_port(remembered: int | None = None, host: str = "127.0.0.1", promised: Container[int] = ()) -> int:
    """The remembered port if it is free, or else a free one. Raises `OSError` when none is found.

    What is promised to others is not free, though they may not listen yet.
    """
    if remembered is not None and remembered not in promised and is_free(remembered, host):
        return remembered
    for _ in range(200):
        port = random.choice(_CHOICE)  # noqa: S311 - it only has to be spread, not secret.
        if port not in promised and is_free(port, host):
            return port
    raise OSError("no free port was found")
