"""The network of a client, by which requests without credentials are counted."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network
from typing import Final

from starlette.types import Scope

from shared.networks import read_address

IPV6_PREFIX: Final = 64
"""The shortest prefix that one client has: it can choose the rest of its address for each request."""


def find_client_network(scope: Scope) -> str:
    """Return the client's address as the trusted proxies report it: of IPv6, the network of 64 bits; empty for a Unix socket.

    The server has replaced the address of a trusted proxy in `scope` by that of the client (`TASKMILL_FORWARDED_ALLOW_IPS`).
    """
    client = scope.get("client")
    return normalize_address(client[0] if client else None)


def normalize_address(address: str | None) -> str:
    """Return an IPv4 address as it is, also one that is mapped into IPv6, and of an IPv6 address the network of 64 bits.

    What is no address is returned as it is, and None as an empty text.
    """
    parsed = read_address(address)
    if parsed is None:
        return address or ""
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    return str(IPv6Network((int(parsed) >> IPV6_PREFIX << IPV6_PREFIX, IPV6_PREFIX)))
