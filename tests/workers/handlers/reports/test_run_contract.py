"""What `reports.run` accepts."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from shared.contracts.kind import list_referred_files
from shared.contracts.reports.run import KIND, RunParams, RunResult

OPTIONS = {
    "priority", "run_at", "delay", "ttl", "max_attempts", "timeout", "keep_for", "tags", "metadata", "webhook",
    "unique_for",
}  # fmt: skip


def a_request(**changes: object) -> dict[str, Any]:
    return {"sources": [{"name": "t", "file_id": str(uuid4())}], "query": "FROM t", **changes}


def sources_named(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "file_id": str(uuid4())} for name in names]


def test_the_format_is_csv_unless_another_is_named() -> None:
    assert RunParams.model_validate(a_request()).formats == ("csv",)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"sources": []}, ("sources",)),
        ({"sources": sources_named("a", "A")}, ("sources",)),
        ({"sources": sources_named(*[f"t{i}" for i in range(33)])}, ("sources",)),
        ({"sources": sources_named("a", "1st")}, ("sources", 1, "name")),
        ({"sources": sources_named("a;b")}, ("sources", 0, "name")),
        ({"sources": sources_named("../a")}, ("sources", 0, "name")),
        ({"sources": sources_named("a\n")}, ("sources", 0, "name")),
        ({"sources": sources_named("a" * 64)}, ("sources", 0, "name")),
        ({"sources": [{"name": "a", "file_id": "x"}]}, ("sources", 0, "file_id")),
        ({"sources": [{**sources_named("a")[0], "path": "/etc"}]}, ("sources", 0, "path")),
        ({"sources": [{**sources_named("a")[0], "encoding": "no-such"}]}, ("sources", 0, "encoding")),
        ({"sources": [{**sources_named("a")[0], "header": "first"}]}, ("sources", 0, "header")),
        ({"query": ""}, ("query",)),
        ({"query": "x" * 100_001}, ("query",)),
        ({"title": "x" * 201}, ("title",)),
        ({"formats": []}, ("formats",)),
        ({"formats": ["csv", "csv"]}, ("formats",)),
        ({"formats": ["csv", "pdf"]}, ("formats", 1)),
        ({"colour": "red"}, ("colour",)),
    ],
)
def test_bad_params_are_refused_at_their_place(changes: dict[str, Any], place: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        RunParams.model_validate(a_request(**changes))

    assert caught.value.errors()[0]["loc"] == place


def test_every_source_is_a_file_that_must_be_a_table() -> None:
    params = RunParams.model_validate(a_request(sources=sources_named("a", "b")))

    referred = list(list_referred_files(params))

    assert [file.pointer for file in referred] == ["/sources/0/file_id", "/sources/1/file_id"]
    assert all(isinstance(file.file_id, UUID) for file in referred)
    for media_type in ("text/csv", "text/plain", "application/json", "application/vnd.apache.parquet"):
        assert referred[0].reference.can_read(media_type)
    assert not referred[0].reference.can_read("image/png")


def test_no_param_has_the_name_of_an_option_and_each_is_described() -> None:
    schema = KIND.params.model_json_schema()

    assert not OPTIONS & schema["properties"].keys()
    for model in (schema, *schema["$defs"].values()):
        assert all(field.get("description") for field in model["properties"].values())


def test_a_result_from_before_sources_were_described_can_be_read() -> None:
    assert RunResult.model_validate({"rows": 0, "columns": []}).sources == ()


def test_params_survive_the_way_through_json() -> None:
    source = {**sources_named("a")[0], "encoding": "Shift_JIS", "header": False}
    params = RunParams.model_validate(a_request(formats=["json", "csv"], title="T", sources=[source]))

    assert RunParams.model_validate_json(params.model_dump_json()) == params
