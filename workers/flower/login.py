"""Flower's login: one user and password (RFC 7617), with a limit on refused credentials for each address."""

from __future__ import annotations

import hmac
import ipaddress
import math
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shared.errors import ConfigurationError
from shared.settings import FlowerSettings

MAX_REFUSALS: Final = 10
"""How many refused credentials an address may send in quick succession."""
SECONDS_PER_REFUSAL: Final = 12.0
"""How long it takes until an address may send one more."""
MAX_ADDRESSES: Final = 10_000
"""How many addresses are remembered. The one that was refused longest ago is forgotten first."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class LoginThrottle:
    """Counts refused credentials by client address, as a token bucket.

    An address without a token gets no answer about its credentials, right or wrong: otherwise guessing could go on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """By address: the moment at which it has all its tokens again."""

    def blocked_seconds(self, address: str) -> int:
        """Return for how many seconds the address must wait, 0 if it may try now."""
        missing = self._full_at.get(_network_of(address), 0.0) - self._clock()
        return max(0, math.ceil(missing - (MAX_REFUSALS - 1) * SECONDS_PER_REFUSAL))

    def count_refusal(self, address: str) -> None:
        """Remove a token from the bucket of the address."""
        network, now = _network_of(address), self._clock()
        self._full_at[network] = max(self._full_at.pop(network, now), now) + SECONDS_PER_REFUSAL
        if len(self._full_at) > MAX_ADDRESSES:
            self._full_at.popitem(last=False)


def read_credentials(settings: FlowerSettings) -> str:
    """Return `user:password`. Raises `ConfigurationError` when a browser cannot send them."""
    user, password = settings.flower_user, settings.flower_password.get_secret_value()
    for name, value in (("TASKMILL_FLOWER_USER", user), ("TASKMILL_FLOWER_PASSWORD", password)):
        if not value or not value.isascii() or not value.isprintable():
            raise ConfigurationError(f"{name} must consist of printable ASCII characters, at least one")
    if ":" in user:
        raise ConfigurationError("TASKMILL_FLOWER_USER must not contain a colon, which ends the user in credentials")
    return f"{user}:{password}"


def are_credentials(header: str, credentials: str) -> bool:
    """Return whether the header `Authorization` contains these credentials."""
    scheme, _, encoded = header.partition(" ")
    try:
        given = b64decode(encoded.strip(), validate=True)
    except ValueError:
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(given, credentials.encode())


def find_client_address(peer: str, forwarded_for: str, trusted_proxies: str) -> str:
    """Return the address of the client: the last one in `X-Forwarded-For` that is not a trusted proxy.

    The field is ignored unless the peer is a trusted proxy, because any client can send it.
    """
    trusted = [_parse_network(text.strip()) for text in trusted_proxies.split(",")]
    address = peer
    for forwarded in reversed(forwarded_for.split(",")):
        if not any(_is_in(address, network) for network in trusted) or not _is_address(forwarded.strip()):
            break
        address = forwarded.strip()
    return address


def _parse_network(text: str) -> Network | None:
    """Return a network, which may be one address, or None for `*` and for the name of a host."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _is_in(address: str, network: Network | None) -> bool:
    return network is not None and _is_address(address) and ipaddress.ip_address(address) in network


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _network_of(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or the /64 that an IPv6 client has to itself."""
    if not _is_address(address):
        return address
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return address
    if (mapped := parsed.ipv4_mapped) is not None:
        return str(mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
