"""Networks in settings and of API keys, and the addresses of clients."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)
from typing import Final

SHOWN_BITS: Final = {4: 24, 6: 64}
"""How much of an address is stored where only the network matters, by the version of IP."""


def includes_every_address(addresses: str) -> bool:
    """Return whether `*`, or networks that together are all of IPv4 or of IPv6, are among addresses between commas."""
    names = [name.strip() for name in addresses.split(",")]
    fourth: list[IPv4Network] = []
    sixth: list[IPv6Network] = []
    for name in names:
        # Other texts are names of sockets.
        with suppress(ValueError):
            network = ip_network(name, strict=False)
            if isinstance(network, IPv4Network):
                fourth.append(network)
            else:
                sixth.append(network)
    widths = [network.prefixlen for network in collapse_addresses(fourth)]
    widths += [network.prefixlen for network in collapse_addresses(sixth)]
    return "*" in names or 0 in widths


def read_address(text: str | None) -> IPv4Address | IPv6Address | None:
    """Return the address of a client, or None if there is none, as with a Unix socket.

    An IPv4 address that is written as IPv6 (RFC 4291, section 2.5.5.2) is returned as IPv4. The zone of a link-local address,
    which names an interface of this computer, is left out.
    """
    if text is None:
        return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_within(address: str | None, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Return whether the address of a client is in one of the networks. What is no address is in none."""
    found = read_address(address)
    return found is not None and any(found in network for network in networks)


def find_network(address: str | None) -> str | None:
    """Return the network of an address, shortened so that it names no single computer, or None for what is no address."""
    found = read_address(address)
    return None if found is None else str(ip_network((found, SHOWN_BITS[found.version]), strict=False))
