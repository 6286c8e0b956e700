from __future__ import annotations

import threading
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6

import pytest

from workers.adapters.address_guard import AddressGuard, AddressRefused, NameNotResolved, Target, look_up

PUBLIC = ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]
REFUSED = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254"),
    *("168.63.129.16", "172.16.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1"),
    *("5f00::1", "4000::1", "100::1", "2001:2::1", "2001:20::1"),
    # They stand for, or tunnel to, addresses of IPv4: private and public ones.
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "64:ff9b::10.0.0.1", "64:ff9b::8.8.8.8"),
    *("64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001:0:808:808::", "2001:4860::5efe:127.0.0.1"),
]


def guard_for(*answers: str, allowed: Sequence[str] = ()) -> AddressGuard:
    def answer(host: str, port: int) -> Sequence[Target]:
        return [Target(AF_INET6 if ":" in address else AF_INET, (address, port)) for address in answers]

    return AddressGuard([ip_network(network) for network in allowed], answer)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_connected_to(address: str) -> None:
    assert guard_for(address).find_addresses("example.com", 443, 5)[0].sockaddr == (address, 443)


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="is not public"):
        guard_for(address).find_addresses("example.com", 443, 5)


def test_a_host_is_refused_if_any_of_its_addresses_is() -> None:
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        guard_for("8.8.8.8", "10.0.0.1").find_addresses("example.com", 443, 5)


def test_a_setting_allows_networks_and_no_others() -> None:
    guard = guard_for("10.1.2.3", allowed=["10.1.0.0/16", "fd00::/8"])

    assert guard.find_addresses("example.com", 443, 5)
    assert guard.find_objection(ip_address("fd00::1")) is None
    assert guard.find_objection(ip_address("10.2.0.1")) is not None


def test_an_address_that_embeds_another_is_judged_by_both() -> None:
    guard = guard_for(allowed=["64:ff9b::/96", "2002::/16", "127.0.0.0/8"])

    assert guard.find_objection(ip_address("64:ff9b::8.8.8.8")) is None
    assert guard.find_objection(ip_address("64:ff9b::127.0.0.1")) is None
    assert "10.0.0.1" in (guard.find_objection(ip_address("64:ff9b::10.0.0.1")) or "")
    assert "10.0.0.1" in (guard.find_objection(ip_address("2002:a00:1::1")) or "")
    assert guard.find_objection(ip_address("::ffff:127.0.0.1")) is not None


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0x7f.1", "2130706433", "127.1", "0177.0.0.1", "localhost", "::1", "fe80::1%1"]
)
def test_an_unusual_spelling_is_judged_by_what_it_resolves_to(host: str) -> None:
    with pytest.raises((AddressRefused, NameNotResolved)):
        AddressGuard().find_addresses(host, 80, 5)


def test_a_spelling_of_an_allowed_address_is_allowed() -> None:
    found = AddressGuard([ip_network("127.0.0.0/8")]).find_addresses("2130706433", 80, 5)

    assert {target.sockaddr[0] for target in found} == {"127.0.0.1"}
    assert look_up("127.0.0.1", 80)[0].sockaddr == ("127.0.0.1", 80)


def test_a_name_server_that_does_not_answer_is_not_waited_for() -> None:
    stop = threading.Event()

    def hang(host: str, port: int) -> Sequence[Target]:
        stop.wait(30)
        return []

    with pytest.raises(NameNotResolved, match="in time"):
        AddressGuard(look_up=hang).find_addresses("example.com", 443, 0.05)
    stop.set()


@pytest.mark.parametrize("host", ["nobody.invalid", "a" * 64 + ".example", "..", ""])
def test_a_host_without_an_address_is_not_resolved(host: str) -> None:
    with pytest.raises((NameNotResolved, AddressRefused)):
        AddressGuard().find_addresses(host, 443, 10)
