"""The schemas of submissions: one for each public kind, with the params of the kind and an example."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.submitting.parsing import MAX_BATCH
from shared.contracts.catalog import list_kinds
from shared.contracts.kind import AnyKind
from shared.tasks.options import side_by_side_model, submission_model

Schema = dict[str, Any]

COMPONENT: Final = "#/components/schemas/{model}"
SIDE_BY_SIDE_KINDS: Final = ("email.send", "reports.run")
"""The kinds with a route of their own, whose body holds params and options side by side."""


class KindSchemas(NamedTuple):
    """The JSON Schemas of a kind, each without references to anything outside of it."""

    params: Schema
    result: Schema


def ref(component: str) -> Schema:
    """Return a reference to a component of the schema."""
    return {"$ref": COMPONENT.format(model=component)}


def side_by_side_ref(kind_name: str) -> Schema:
    """Return a reference to the body of a kind's own route."""
    return ref(side_by_side_model(kind_name).__name__)


@cache
def submission_components() -> dict[str, Schema]:
    """Return the components by name: `Submission`, `Batch`, and the model of each body that a caller may send."""
    kinds = _list_public_kinds()
    models: list[type[BaseModel]] = [submission_model(name) for name in kinds]
    models += [side_by_side_model(name) for name in SIDE_BY_SIDE_KINDS]
    _, document = models_json_schema([(model, "validation") for model in models], ref_template=COMPONENT)
    components: dict[str, Schema] = document["$defs"]
    names = {name: submission_model(name).__name__ for name in kinds}
    components["Submission"] = {
        "description": "A task of any kind: its params, and options.",
        "oneOf": [ref(component) for component in names.values()],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {name: COMPONENT.format(model=component) for name, component in names.items()},
        },
    }
    components["Batch"] = {
        "title": "Batch",
        "description": "Tasks that are stored together: all of them or none.",
        "type": "object",
        "required": ["tasks"],
        "properties": {
            "tasks": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": ref("Submission")},
            "on_finished": {
                "description": "A task that is submitted when the last task of the batch has ended, however they ended.",
                "allOf": [ref("Submission")],
            },
        },
        "additionalProperties": False,
    }
    return components


def submission_examples() -> dict[str, Schema]:
    """Return a body of `POST /tasks` for each public kind, as OpenAPI lists examples."""
    return {
        name: {"summary": kind.title, "value": {"kind": name, "params": dict(kind.example)}}
        for name, kind in _list_public_kinds().items()
        if kind.example is not None
    }


def batch_examples() -> dict[str, Schema]:
    """Return a body of `POST /tasks/batch`, as OpenAPI lists examples."""
    tasks = [example["value"] for example in submission_examples().values()]
    return {"batch": {"summary": "Submit a task of each kind", "value": {"tasks": tasks}}}


def side_by_side_examples(kind_name: str) -> dict[str, Schema]:
    """Return a body of a kind's own route, as OpenAPI lists examples."""
    kind = list_kinds()[kind_name]
    return {kind_name: {"summary": kind.title, "value": {**(kind.example or {}), "tags": ["example"]}}}


def _list_public_kinds() -> dict[str, AnyKind]:
    return {name: kind for name, kind in list_kinds().items() if kind.public}


@cache
def kind_schemas() -> dict[str, KindSchemas]:
    """Return the schemas of each kind by its name."""
    return {
        name: KindSchemas(
            params=_inline(kind.params.model_json_schema(mode="validation", by_alias=True)),
            result=_inline(kind.result.model_json_schema(mode="serialization", by_alias=True)),
        )
        for name, kind in list_kinds().items()
    }


def _inline(schema: Schema) -> Schema:
    """Return a schema with its definitions in the places that refer to them."""
    definitions = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str) and reference.startswith("#/$defs/"):
                others = {key: item for key, item in value.items() if key != "$ref"}
                return resolve({**definitions[reference.removeprefix("#/$defs/")], **others})
            return {key: resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [resolve(item) for item in value]
        return value

    resolved: Schema = resolve(schema)
    return resolved
