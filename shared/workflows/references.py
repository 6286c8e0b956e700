"""References of a workflow's step to values of an earlier step: `{"$from": "inspect.result.pages"}`.

A reference names a step and then a path in its document: keys and positions of lists, separated by dots:

- a step with one task has `result`, `artifacts`, `status` and `error`, as its task shows them;
- a step with `for_each` has `results` and `artifacts`, in the order of the elements, and `status`;
- `item` is, in the params of a step with `for_each`, the element of its task.

Types are compared by JSON Schema as far as contracts declare them: what they leave open, only the attempt can check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

FROM: Final = "$from"
ITEM: Final = "item"
STEP_NAME: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
MAX_REFERENCE_CHARACTERS: Final = 500
_REFERENCE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}(\.[^.]+)*")

Path = tuple[str, ...]
Schema = Mapping[str, Any]


class Reference(NamedTuple):
    """A reference: where it is in the params, and what it refers to."""

    pointer: Path
    """The keys and positions that lead to it."""
    source: str
    """The name of a step, or `item`."""
    path: Path
    """The keys and positions that lead to the value in the document of the step, or in the item."""

    @property
    def written(self) -> str:
        """The reference as its workflow has it."""
        return ".".join((self.source, *self.path))

    def document(self) -> dict[str, Any]:
        """Return the reference as the database reads it."""
        return {"pointer": self.pointer, "source": self.source, "path": self.path, "written": self.written}


class UnreadableReference(ValueError):
    """An object with `$from` that is not a valid reference. The message is for the caller."""


def is_reference(value: object) -> bool:
    """Return whether a value of a workflow's body is meant as a reference: an object with `$from`."""
    return isinstance(value, dict) and FROM in value


def parse_reference(value: Mapping[str, Any], pointer: Path = ()) -> Reference:
    """Return the reference that an object with `$from` is. Raises `UnreadableReference`."""
    written = value[FROM]
    if len(value) > 1:
        raise UnreadableReference("A reference has no other field beside $from.")
    if (
        not isinstance(written, str)
        or len(written) > MAX_REFERENCE_CHARACTERS
        or _REFERENCE.fullmatch(written) is None
        or "\x00" in written
    ):
        raise UnreadableReference("$from must name a step and a value of it, such as `inspect.result.pages`.")
    source, *path = written.split(".")
    return Reference(pointer, source, tuple(path))


def iterate_references(value: object, pointer: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each object with `$from` inside a value, with the keys and positions that lead to it."""
    if isinstance(value, dict):
        if FROM in value:
            yield pointer, value
        else:
            for key, item in value.items():
                yield from iterate_references(item, (*pointer, str(key)))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from iterate_references(item, (*pointer, str(position)))


ARTIFACT_SCHEMA: Final[Schema] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "name": {"type": "string"},
        "media_type": {"type": "string"},
        "size": {"type": "integer"},
        "sha256": {"type": "string"},
        "url": {"type": "string"},
    },
    "additionalProperties": False,
}


def step_schema(result: Schema, *, makes_files: bool, fans_out: bool) -> Schema:
    """Return the schema of the document of a step, from that of its kind's result."""
    properties: dict[str, Any] = {"status": {"type": "string"}}
    if makes_files:
        properties["artifacts"] = {"type": "array", "items": ARTIFACT_SCHEMA}
    if fans_out:
        properties["results"] = {"type": "array", "items": {"anyOf": [result, {"type": "null"}]}}
    else:
        properties["result"] = result
        properties["error"] = {"type": ["object", "null"]}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def find_schemas(schema: Schema, path: Sequence[str]) -> list[Schema]:
    """Return the schemas that a value at the end of a path may have. An empty list means that there can be no such value."""
    found = [schema]
    for key in path:
        found = [inner for outer in found for inner in _find_inner(outer, key)]
    return found


def _find_inner(schema: Schema, key: str) -> list[Schema]:
    alternatives = _list_alternatives(schema)
    if alternatives is not None:
        return [inner for alternative in alternatives for inner in _find_inner(alternative, key)]
    if not schema or not {"type", "properties", "items", "additionalProperties", "prefixItems"} & schema.keys():
        return [{}]
    types = _own_types(schema)
    found: list[Schema] = []
    if types is None or "object" in types:
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", not properties)
        if key in properties:
            found.append(properties[key])
        elif others is not False:
            found.append(others if isinstance(others, dict) else {})
    if (types is None or "array" in types) and key.isdecimal():
        first = schema.get("prefixItems", [])
        if int(key) < len(first):
            found.append(first[int(key)])
        elif schema.get("items", True) is not False:
            items = schema.get("items", {})
            found.append(items if isinstance(items, dict) else {})
    return found


def find_types(schemas: Sequence[Schema]) -> set[str] | None:
    """Return the JSON types that values of any of the schemas may have, or None if these do not say it."""
    found: set[str] = set()
    for schema in schemas:
        alternatives = _list_alternatives(schema)
        types = _own_types(schema) if alternatives is None else find_types(alternatives)
        if types is None:
            return None
        found |= types
    return found


def can_be(source: Sequence[Schema], target: Sequence[Schema]) -> bool:
    """Return whether a value of the source may be valid at the target, by their types."""
    given, wanted = find_types(source), find_types(target)
    if given is None or wanted is None:
        return True
    if "number" in wanted:
        wanted = wanted | {"integer"}
    if "number" in given:
        given = given | {"integer"}
    return bool(given & wanted)


def _list_alternatives(schema: Schema) -> list[Schema] | None:
    for word in ("anyOf", "oneOf"):
        if word in schema:
            alternatives: list[Schema] = schema[word]
            return alternatives
    return None


_JSON_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def _own_types(schema: Schema) -> set[str] | None:
    declared = schema.get("type")
    if isinstance(declared, str):
        return {declared}
    if isinstance(declared, list):
        return set(declared)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None:
        return None
    return {_JSON_TYPES.get(type(value), "object") for value in values}
