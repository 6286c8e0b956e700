"""Decoding of JSON: repeated keys are found at any depth, without false positives."""

from __future__ import annotations

import random
import time

import orjson
import pytest

from api.http.json_text import load_json
from api.http.problems import Problem


def find_pointers(text: str, prefix: str = "") -> list[tuple[str, str]]:
    with pytest.raises(Problem) as raised:
        load_json(text.encode(), prefix)
    assert raised.value.name == "validation"
    return [(error.pointer, error.code) for error in raised.value.errors]


@pytest.mark.parametrize(
    ("text", "pointers"),
    [
        ('{"to":["first@example.com"],"to":["second@example.com"],"text":"x"}', ["/to"]),
        ('{"a":1,"a":1}', ["/a"]),
        ('{"a":null,"b":2,"a":{"c":3}}', ["/a"]),
        ('{"params":{"echo":"a","echo":"b"}}', ["/params/echo"]),
        ('{"tasks":[{},{"params":{"x":[1,{"y":1,"y":2}]}}]}', ["/tasks/1/params/x/1/y"]),
        ('[[{"a":1}],[{"b":1,"b":1}]]', ["/1/0/b"]),
        ('{"a/b~c":1,"a/b~c":2}', ["/a~1b~0c"]),
        ('{"":1,"":2}', ["/"]),
        ('{"a":1,"\\u0061":2}', ["/a"]),
        ('{ "a" : 1 ,\n "a"\t: 2 }', ["/a"]),
        ('{"x:y":1,"x:y":2}', ["/x:y"]),
        ('{"a":"\\u003a","b":1,"b":2}', ["/b"]),
        ('{"a":":::\\u003A","a":"\\u003a"}', ["/a"]),
        ('{"\\u003a":1,":":2}', ["/:"]),
        ('{"a":1,"a":2,"a":3}', ["/a"]),
        ('{"ü":1,"\\u00fc":2}', ["/ü"]),
        ('{"a":"\\"b\\":1","c":0,"c":0}', ["/c"]),
        ('{"k":{"deep":{"deep":1},"deep":2}}', ["/k/deep"]),
        ("[" * 300 + '{"a":1,"a":2}' + "]" * 300, ["/0" * 300 + "/a"]),
    ],
)
def test_a_repeated_key_is_named_by_its_pointer(text: str, pointers: list[str]) -> None:
    assert find_pointers(text) == [(pointer, "repeated_key") for pointer in pointers]


def test_repeated_keys_are_all_named_with_the_prefix() -> None:
    text = '{"a":1,"a":2,"b":{"c":1,"c":2}}'

    assert find_pointers(text, "form:task") == [
        ("form:task/a", "repeated_key"),
        ("form:task/b/c", "repeated_key"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "null",
        '"a:b"',
        '{"a":{"a":{"a":1}},"b":{"a":1}}',
        '[{"a":1},{"a":1}]',
        '{"A":1,"a":2}',
        '{"a":"\\"a\\":1,\\"a\\":2"}',
        '{"a":"\\u003a\\u003A","b":"\\\\u003a"}',
        '{"a:":1,":a":2,"::":"::"}',
        '{"a":1e5,"b":-0.0,"c":12345678901234567890123}',
        "[" * 300 + '{"a":1}' + "]" * 300,
    ],
)
def test_json_without_a_repeated_key_is_decoded(text: str) -> None:
    assert load_json(text.encode()) == orjson.loads(text)


def test_repeated_keys_are_found_in_random_documents() -> None:
    chance = random.Random(7)
    texts = [":", '\\"', "\\u003a", "a", "\\\\", "é", '":"']

    def write(depth: int) -> tuple[str, bool]:
        if depth == 0 or chance.random() < 0.3:
            return '"' + "".join(chance.choices(texts[:6], k=3)) + '"', False
        parts, repeats, keys = [], False, set()
        for _ in range(chance.randrange(4)):
            value, repeats_within = write(depth - 1)
            repeats |= repeats_within
            key = '"' + "".join(chance.choices(texts[:4], k=2)) + '"'
            decoded = orjson.loads(key)
            repeats |= decoded in keys
            keys.add(decoded)
            parts.append(f"{key}: {value}")
        return "{" + ",".join(parts) + "}", repeats

    documents = [write(4) for _ in range(500)]
    assert 50 < sum(repeats for _, repeats in documents) < 450
    for text, repeats in documents:
        try:
            load_json(text.encode())
            found = False
        except Problem:
            found = True
        assert found == repeats, text


def test_at_most_a_hundred_repeated_keys_are_named_in_little_time() -> None:
    text = '{"tasks":[' + ",".join(['{"a":1,"a":2}'] * 100_000) + "]}"

    started = time.process_time()
    pointers = find_pointers(text)

    assert len(pointers) == 100
    assert time.process_time() - started < 2


def test_json_that_nests_too_deeply_is_refused() -> None:
    assert find_pointers("[" * 1020 + '{"a":1}' + "]" * 1020) == [("", "json_invalid")]
