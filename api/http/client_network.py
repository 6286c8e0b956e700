"""The network of a client, by which requests without credentials are counted."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from starlette.types import Scope

IPV6_PREFIX: Final = 64
"""The shortest prefix that one client has: it can choose the rest of its address for each request."""


def find_client_network(scope: Scope) -> str:
    """Return the client's address as the trusted proxies report it: of IPv6, the network of 64 bits; empty for a Unix socket.

    The server has replaced the address of a trusted proxy in `scope` by that of the client (`TASKMILL_FORWARDED_ALLOW_IPS`).
    """
    client = scope.get("client")
    return normalize_address(client[0]) if client else ""


def normalize_address(address: str) -> str:
    """Return an IPv4 address as it is, also one that is mapped into IPv6, and of an IPv6 address the network of 64 bits."""
    try:
        # The zone of a link-local address is the name of an interface of this computer.
        parsed: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed) >> IPV6_PREFIX << IPV6_PREFIX, IPV6_PREFIX)))
