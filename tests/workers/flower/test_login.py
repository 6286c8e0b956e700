from __future__ import annotations

import base64

import pytest

from workers.flower.login import (
    MAX_ADDRESSES,
    MAX_REFUSALS,
    SECONDS_PER_REFUSAL,
    LoginThrottle,
    are_credentials,
    find_client_address,
)


class Clock:
    """Stands for `time.monotonic`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refuse(throttle: LoginThrottle, address: str, times: int = MAX_REFUSALS) -> None:
    for _ in range(times):
        assert throttle.blocked_seconds(address) == 0
        throttle.count_refusal(address)


def test_an_address_may_try_again_after_a_while() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock)

    refuse(throttle, "192.0.2.1")

    assert throttle.blocked_seconds("192.0.2.1") == SECONDS_PER_REFUSAL
    assert throttle.blocked_seconds("192.0.2.2") == 0
    clock.now += SECONDS_PER_REFUSAL
    refuse(throttle, "192.0.2.1", times=1)
    assert throttle.blocked_seconds("192.0.2.1") > 0
    clock.now += MAX_REFUSALS * SECONDS_PER_REFUSAL
    refuse(throttle, "192.0.2.1")


def test_an_ipv6_client_is_its_whole_network() -> None:
    throttle = LoginThrottle(Clock())

    refuse(throttle, "2001:db8::1")

    assert throttle.blocked_seconds("2001:db8::ffff") > 0
    assert throttle.blocked_seconds("2001:db8:0:1::1") == 0
    refuse(throttle, "::ffff:192.0.2.1")
    assert throttle.blocked_seconds("192.0.2.1") > 0


def test_no_more_than_a_bounded_number_of_addresses_is_remembered() -> None:
    throttle = LoginThrottle(Clock())

    refuse(throttle, "first")
    for number in range(MAX_ADDRESSES):
        throttle.count_refusal(f"address-{number}")

    assert throttle.blocked_seconds("first") == 0


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "trusted", "client"),
    [
        ("192.0.2.1", "", "127.0.0.1", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "127.0.0.1", "192.0.2.1"),
        ("127.0.0.1", "198.51.100.1", "127.0.0.1", "198.51.100.1"),
        ("127.0.0.1", "203.0.113.9, 198.51.100.1", "127.0.0.1", "198.51.100.1"),
        ("10.0.0.2", "198.51.100.1, 10.0.0.3", "127.0.0.1, 10.0.0.0/24", "198.51.100.1"),
        ("127.0.0.1", "unknown", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1", "127.0.0.1"),
        ("192.0.2.1", "198.51.100.1", "*", "192.0.2.1"),
    ],
)
def test_only_a_trusted_proxy_names_the_client(peer: str, forwarded_for: str, trusted: str, client: str) -> None:
    assert find_client_address(peer, forwarded_for, trusted) == client


@pytest.mark.parametrize(
    ("scheme", "given", "accepted"),
    [
        ("Basic", "operator:secret", True),
        ("basic", "operator:secret", True),
        ("Basic", "operator:secreT", False),
        ("Basic", "operator:", False),
        ("Bearer", "operator:secret", False),
    ],
)
def test_credentials_are_accepted_only_if_equal(scheme: str, given: str, accepted: bool) -> None:
    header = f"{scheme} {base64.b64encode(given.encode()).decode()}"

    assert are_credentials(header, "operator:secret") == accepted


@pytest.mark.parametrize("header", ["", "Basic", "Basic ???"])
def test_a_field_that_is_not_basic_is_refused(header: str) -> None:
    assert not are_credentials(header, "operator:secret")
