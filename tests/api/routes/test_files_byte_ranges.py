"""The header Range, and the headers of downloads (RFC 9110, RFC 6266)."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.http.byte_ranges import ByteRange, RangeNotSatisfiable, attachment, find_range, http_date, range_applies


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 3)),
        ("bytes=3-999", (3, 7)),
        ("bytes=-4", (6, 4)),
        ("bytes=-400", (0, 10)),
        ("BYTES = 9 - 9", (9, 1)),
        (None, None),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("bytes=5-3", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
        ("bytes=0-1" + "0" * 40, (0, 10)),
        ("bytes=4-" + "9" * 5000, (4, 6)),
        ("bytes=-1" + "0" * 40, (0, 10)),
        ("bytes=" + "0" * 40 + "4-5", (4, 2)),
        ("bytes=٣-5", None),
        ("", None),
    ],
)
def test_one_range_is_found_and_other_range_headers_mean_the_whole_file(
    header: str | None, expected: tuple[int, int] | None
) -> None:
    assert find_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=1" + "0" * 40 + "-"])
def test_a_range_that_holds_no_byte_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        find_range(header, 10)


def test_an_empty_file_has_no_range() -> None:
    for header in ("bytes=0-", "bytes=-5"):
        with pytest.raises(RangeNotSatisfiable):
            find_range(header, 0)


@settings(deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"bytes=\d{0,30}-\d{0,30}", fullmatch=True), st.integers(0, 10**6))
def test_a_range_found_always_lies_within_the_file(header: str, size: int) -> None:
    try:
        found = find_range(header, size)
    except RangeNotSatisfiable:
        return
    if found is not None:
        assert 0 <= found.start < size
        assert 1 <= found.length <= size - found.start


def test_a_content_range_names_the_last_byte() -> None:
    assert ByteRange(3, 4).content_range(10) == "bytes 3-6/10"


def test_a_range_holds_only_for_the_very_file_that_the_client_knows() -> None:
    etag, modified = '"abc"', http_date(datetime(2026, 11, 24, 4, 5, 6, tzinfo=UTC))
    assert modified == "Tue, 24 Nov 2026 04:05:06 GMT"
    assert range_applies(None, etag, modified)
    assert range_applies('"abc"', etag, modified)
    assert range_applies(modified, etag, modified)
    assert not range_applies('W/"abc"', etag, modified)
    assert not range_applies('"abd"', etag, modified)
    assert not range_applies("Tue, 24 Nov 2026 04:05:07 GMT", etag, modified)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.csv", 'attachment; filename="report.csv"'),
        ("year's end (2).pdf", 'attachment; filename="year\'s end (2).pdf"'),
        ("naïve café.txt", "attachment; filename=\"naive cafe.txt\"; filename*=UTF-8''na%C3%AFve%20caf%C3%A9.txt"),
        ('a"b\\c.txt', "attachment; filename=\"a_b_c.txt\"; filename*=UTF-8''a%22b%5Cc.txt"),
        ("50%.txt", "attachment; filename=\"50_.txt\"; filename*=UTF-8''50%25.txt"),
        ("日本.png", "attachment; filename=\"__.png\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.png"),
    ],
)
def test_a_content_disposition_has_a_plain_name_and_an_extended_one_where_needed(name: str, expected: str) -> None:
    assert attachment(name) == expected


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_file_name_breaks_the_content_disposition_header(name: str) -> None:
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.split("; filename*=")[0].count('"') == 2
