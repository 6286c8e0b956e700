"""Networks in settings."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network


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
