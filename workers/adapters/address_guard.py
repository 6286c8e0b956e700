"""Decides which addresses the platform may connect to for callers, so that a URL of theirs reaches nothing internal.

`AddressGuard.find_addresses` resolves a host and judges every answer; the connection must then go to one of the addresses that it
returns, and the name must not be resolved again: a second look-up may give another address (DNS rebinding). An unusual
spelling, such as `0x7f.1` or `2130706433`, is judged by what it resolves to.

    AddressRefused        an address is not public, and no setting allows its network
    NameNotResolved       the name has no address
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

REFUSED_IPV4: Final = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared address space of a carrier (CGNAT)"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "the metadata service of a cloud"),
        ("169.254.0.0/16", "link-local, as metadata services are"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved for protocols"),
        ("192.52.193.0/24", "reserved for protocols"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved for protocols"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved or broadcast"),
    )
)
"""The special-purpose addresses of IPv4 (the registry of RFC 6890, IANA), and a metadata service that has a public address."""

PUBLIC_IPV6: Final = IPv6Network("2000::/3")
"""The global unicast addresses of IPv6 (RFC 4291). Every other address of IPv6 is refused."""

REFUSED_IPV6: Final = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "an IPv4-mapped address"),
        ("::/96", "an IPv4-compatible address"),
        ("64:ff9b::/96", "a NAT64 address"),
        ("64:ff9b:1::/48", "a NAT64 address"),
        ("2001::/32", "a Teredo address"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "a 6to4 address"),
        ("2620:4f:8000::/48", "reserved for protocols"),
        ("3fff::/20", "documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
"""The special-purpose addresses of IPv6 (the registry of RFC 6890, IANA), the narrower networks first."""

_COMPATIBLE: Final = IPv6Network("::/96")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
_TEREDO: Final = IPv6Network("2001::/32")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)
"""The third quarter of an address that ends with an IPv4 address by ISATAP (RFC 5214, section 6.1)."""


class AddressRefused(Exception):
    """The host has an address that is not public, and no setting allows its network."""


class NameNotResolved(Exception):
    """The name of the host has no address, or no name server answered in time."""


class Target(NamedTuple):
    """An address that was judged, in the form that `socket.connect` takes."""

    family: socket.AddressFamily
    sockaddr: tuple[Any, ...]


LookUp = Callable[[str, int], Sequence[Target]]
"""Returns the addresses of a host and port. Raises `OSError` or `UnicodeError` when there is none."""


def look_up(host: str, port: int) -> Sequence[Target]:
    """Return the addresses that the system's resolver knows for a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [Target(family, sockaddr) for family, _, _, _, sockaddr in found]


class AddressGuard:
    """Resolves hosts, and refuses those with an address that is neither public nor in an allowed network."""

    def __init__(self, allowed_networks: Sequence[Network] = (), look_up: LookUp = look_up) -> None:
        self._allowed = tuple(allowed_networks)
        self._look_up = look_up

    def find_addresses(self, host: str, port: int, timeout_seconds: float) -> Sequence[Target]:
        """Return the addresses of a host, each of which may be connected to.

        Raises `AddressRefused` if any of them may not, and `NameNotResolved`.
        """
        targets = self._resolve(host, port, timeout_seconds)
        if not targets:
            raise NameNotResolved("the name has no address")
        for target in targets:
            reason = self.find_objection(ip_address(str(target.sockaddr[0])))
            if reason is not None:
                raise AddressRefused(reason)
        return targets

    def find_objection(self, address: Address) -> str | None:
        """Return why an address may not be connected to, or None. One that embeds another is judged by both."""
        for judged in (address, *_list_embedded(address)):
            reason = _find_objection(judged)
            if reason is not None and not self._is_allowed(judged):
                return f"the address {judged} is not public ({reason}), and TASKMILL_ALLOWED_NETWORKS does not allow it"
        return None

    def _is_allowed(self, address: Address) -> bool:
        plain = IPv6Address(int(address)) if isinstance(address, IPv6Address) else address
        return any(plain in network for network in self._allowed)

    def _resolve(self, host: str, port: int, timeout_seconds: float) -> Sequence[Target]:
        """Look up a host in a thread of its own, because the system's resolver has no time limit."""
        answers: queue.SimpleQueue[Sequence[Target] | Exception] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put(self._look_up(host, port))
            except Exception as error:
                answers.put(error)

        threading.Thread(target=answer, name="look-up", daemon=True).start()
        try:
            found = answers.get(timeout=max(0.0, timeout_seconds))
        except queue.Empty:
            raise NameNotResolved("no name server answered in time") from None
        if isinstance(found, Exception):
            if isinstance(found, (OSError, UnicodeError)):
                raise NameNotResolved("the name does not resolve") from found
            raise found
        return found


def _find_objection(address: Address) -> str | None:
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in REFUSED_IPV4 if address in network), None)
    plain = IPv6Address(int(address))
    if (reason := next((reason for network, reason in REFUSED_IPV6 if plain in network), None)) is not None:
        return reason
    return None if plain in PUBLIC_IPV6 else "reserved"


def _list_embedded(address: Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that an address of IPv6 stands for, or tunnels to."""
    if isinstance(address, IPv4Address):
        return
    number = int(address)
    plain = IPv6Address(number)
    if plain in _MAPPED or plain in _NAT64 or (plain in _COMPATIBLE and number > 1):
        yield IPv4Address(number & 0xFFFF_FFFF)
    elif plain in _LOCAL_NAT64:
        # RFC 6052, section 2.2: the prefix has 48 bits, and the bits 64 to 71 are skipped.
        yield IPv4Address((number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF)
    elif plain in _SIX_TO_FOUR:
        yield IPv4Address(number >> 80 & 0xFFFF_FFFF)
    elif plain in _TEREDO:
        # RFC 4380, section 4: the server, and the client with its bits inverted.
        yield IPv4Address(number >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(~number & 0xFFFF_FFFF)
    if number >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield IPv4Address(number & 0xFFFF_FFFF)
