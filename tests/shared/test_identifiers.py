"""Identifiers are UUIDv7, and in the order in which they were made."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.identifiers import new_id


def test_an_id_is_a_uuid_of_version_seven_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000
    made = new_id()
    after = time.time_ns() // 1_000_000

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= made.int >> 80 <= after + 1


def test_ids_sort_in_the_order_in_which_they_were_made_within_a_millisecond_too() -> None:
    made = [new_id() for _ in range(20_000)]

    assert made == sorted(made)
    assert [str(one) for one in made] == sorted(str(one) for one in made)


def test_ids_sort_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    past = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: past)

    assert first < new_id() < new_id()


def test_many_threads_make_no_two_alike() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: [new_id() for _ in range(2_000)], range(8)))

    assert len({one for part in made for one in part}) == 16_000
    assert all(part == sorted(part) for part in made)


def test_two_ids_differ_in_more_than_their_time() -> None:
    assert len({new_id().int & ((1 << 62) - 1) for _ in range(1000)}) == 1000
