"""Parses and checks workflows, without access to the database. One problem lists everything that is invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from pydantic import ValidationError

from api.auth.caller import Caller
from api.http.json_text import load_json
from api.http.problems import FieldError, Problem, body_errors, invalid, json_pointer, nul_character
from api.openapi.submission_schemas import kind_schemas
from api.submitting.parsing import (
    Parsed,
    dump_part,
    parse_submission,
    refuse_stored_secrets,
    submittable_kind,
    unknown_fields,
)
from api.workflows.workflow_models import StepFields
from shared.contracts.kind import AnyKind, Queue, ReferredFile, list_referred_files_in_json
from shared.contracts.secrets import has_secrets, map_secrets
from shared.stored_secrets import SecretCipher
from shared.tasks.follow_ups import make_follow_up
from shared.tasks.options import TaskOptions, submission_model
from shared.tasks.secret_params import seal_values
from shared.tasks.submission import PLATFORM_ID, make_task, submission_document
from shared.workflows.references import (
    ITEM,
    Reference,
    Schema,
    UnreadableReference,
    can_be,
    find_schemas,
    is_reference,
    iterate_references,
    parse_reference,
    step_schema,
)
from shared.workflows.submission import MAX_STEPS, StepPlan

MAX_NAME_CHARACTERS: Final = 200
MAX_REFERENCES: Final = 100
"""How many references the params of one step may have. The transaction that ends the step before it resolves them."""
_LIST: Final[Sequence[Schema]] = [{"type": "array"}]


class ParsedWorkflow(NamedTuple):
    """A validated workflow, whose input files have not been checked yet."""

    name: str | None
    plans: list[StepPlan]
    submissions: list[Parsed]
    """The submission of each plan."""

    def plan_for(self, cipher: SecretCipher, organization_id: UUID, owner_id: UUID) -> list[StepPlan]:
        """Return the plans with their secrets encrypted, and with what their steps ask for when they end.

        That is webhooks and messages by email, of an owner.
        """
        plans = []
        for plan, parsed in zip(self.plans, self.submissions, strict=True):
            follow_up = make_follow_up(parsed.options, cipher, organization_id, owner_id)
            extra = {} if follow_up is None else {"follow_up": follow_up}
            params = seal_values(parsed.kind, plan.submission["params"], cipher)
            plans.append(replace(plan, submission={**plan.submission, "params": params, **extra}))
        return plans


@dataclass
class _Step:
    """A step while it is checked."""

    pointer: str
    position: int
    fields: StepFields
    parsed: Parsed
    references: list[Reference] = field(default_factory=list)
    for_each: Reference | None = None
    after: list[str] = field(default_factory=list)


def parse_workflow(body: bytes, caller: Caller) -> ParsedWorkflow:
    """Return the validated workflow of a body. Raises one problem that lists what is invalid."""
    content = load_json(body)
    if not isinstance(content, dict):
        raise invalid("", "dict_type", "Input should be an object")
    return parse_workflow_content(content, caller)


def parse_workflow_content(content: Mapping[str, Any], caller: Caller, prefix: str = "") -> ParsedWorkflow:
    """Return the validated workflow of decoded JSON; `prefix` is the JSON Pointer to it within the body."""
    errors = [
        FieldError(prefix + error.pointer, error.code, error.message)
        for error in unknown_fields(name for name in content if name not in {"name", "steps"})
    ]
    name, steps = content.get("name"), content.get("steps")
    if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS or "\x00" in name):
        errors.append(FieldError(f"{prefix}/name", "name", f"Must be 1 to {MAX_NAME_CHARACTERS} characters."))
    if not isinstance(steps, list):
        code = "list_type" if "steps" in content else "missing"
        raise Problem(
            "validation", errors=[*errors, FieldError(f"{prefix}/steps", code, "A list of steps is required")]
        )
    if not 1 <= len(steps) <= MAX_STEPS:
        raise Problem(
            "validation", errors=[*errors, FieldError(f"{prefix}/steps", "length", f"1 to {MAX_STEPS} steps")]
        )
    parsed = []
    for position, item in enumerate(steps):
        try:
            parsed.append(_parse_step(item, position, f"{prefix}/steps/{position}", caller))
        except Problem as problem:
            if problem.name != "validation":
                raise
            errors.extend(problem.errors)
    if errors:
        raise Problem("validation", errors=errors)
    errors += _check_graph(parsed)
    if errors:
        raise Problem("validation", errors=errors)
    places = _sort(parsed, prefix)
    errors = [error for step in parsed for error in _check_types(step, {one.fields.name: one for one in parsed})]
    if errors:
        raise Problem("validation", errors=errors)
    plans = [_plan(step, places[step.fields.name]) for step in parsed]
    return ParsedWorkflow(name, plans, [step.parsed for step in parsed])


def _parse_step(item: object, position: int, pointer: str, caller: Caller) -> _Step:
    if not isinstance(item, dict):
        raise invalid(pointer, "dict_type", "Input should be an object")
    own = {name: value for name, value in item.items() if name in StepFields.model_fields}
    submission = {name: value for name, value in item.items() if name not in StepFields.model_fields}
    errors: list[FieldError] = []
    fields = for_each = None
    try:
        fields = StepFields.model_validate(own)
        if fields.name == ITEM:
            errors.append(
                FieldError(f"{pointer}/name", "reserved_name", "The name item is that of the element of a list.")
            )
        if fields.for_each is not None:
            for_each = _read_reference(fields.for_each, (), f"{pointer}/for_each", errors)
    except ValidationError as error:
        errors += body_errors(error, pointer)
    params = submission.get("params")
    references = [
        reference
        for path, value in iterate_references(params)
        if (reference := _read_reference(value, path, f"{pointer}/params{json_pointer(path)}", errors)) is not None
    ]
    if len(references) > MAX_REFERENCES:
        errors.append(
            FieldError(f"{pointer}/params", "too_many_references", f"At most {MAX_REFERENCES} references for one step.")
        )
    parsed = None
    try:
        if references:
            parsed = _parse_with_references(submission, references, pointer, caller)
        elif not errors:
            parsed = parse_submission(dump_part(submission, pointer), caller, pointer)
        if parsed is not None and parsed.options.unique_for is not None:
            raise invalid(
                f"{pointer}/unique_for", "not_in_a_workflow", "The option unique_for cannot be used in a workflow."
            )
    except Problem as problem:
        if problem.name != "validation":
            raise
        errors.extend(problem.errors)
    if errors or fields is None or parsed is None:
        raise Problem("validation", errors=errors)
    return _Step(pointer, position, fields, parsed, references, for_each)


def _read_reference(
    value: Mapping[str, Any], path: tuple[str, ...], pointer: str, errors: list[FieldError]
) -> Reference | None:
    if not is_reference(value):
        errors.append(FieldError(pointer, "reference", 'Must be a reference, such as {"$from": "make.artifacts"}.'))
        return None
    try:
        return parse_reference(value, path)
    except UnreadableReference as error:
        errors.append(FieldError(pointer, "reference", str(error)))
        return None


def _parse_with_references(
    submission: dict[str, Any], references: Sequence[Reference], pointer: str, caller: Caller
) -> Parsed:
    """Return a submission whose params have references. What these will be replaced by is not known, and not checked."""
    name, params = submission.get("kind"), submission["params"]
    if name is None:
        raise invalid(f"{pointer}/kind", "missing", "Field required")
    if any(reference.pointer == () for reference in references):
        raise invalid(f"{pointer}/params", "reference", "The params as a whole cannot be a reference.")
    kind = submittable_kind(name, caller, f"{pointer}/kind")
    text = dump_part(submission, pointer)
    try:
        submission_model(name).model_validate_json(text, strict=True)
    except ValidationError as error:
        unknown = tuple(f"{pointer}/params{json_pointer(reference.pointer)}" for reference in references)
        errors = [
            one
            for one in body_errors(error, pointer)
            if one.pointer not in unknown and not one.pointer.startswith(tuple(place + "/" for place in unknown))
        ]
        if errors:
            raise Problem("validation", errors=errors) from None
    options = TaskOptions.model_validate_json(
        orjson.dumps({key: value for key, value in submission.items() if key not in {"kind", "params"}}), strict=True
    )
    if options.timeout is not None and options.timeout > kind.timeout_seconds:
        message = f"The kind allows at most {kind.timeout_seconds} seconds."
        raise invalid(f"{pointer}/timeout", "less_than_equal", message)
    if b"\\u0000" in text:
        raise nul_character(pointer)
    _check_secrets(kind, params, pointer)
    files = [
        ReferredFile(f"{pointer}/params{file.pointer}", file.file_id, file.reference)
        for file in list_referred_files_in_json(kind.params, params)
    ]
    return Parsed(name, kind, options, orjson.dumps(params), _find_queue(kind, params), files, pointer=pointer)


def _check_secrets(kind: AnyKind, params: dict[str, Any], pointer: str) -> None:
    """Raise a problem if a secret is a reference, since results are not secret, or is what only the platform stores."""
    refuse_stored_secrets(kind, orjson.dumps(params), f"{pointer}/params")
    errors: list[FieldError] = []

    def check(value: Any, path: tuple[str | int, ...]) -> Any:
        if is_reference(value):
            message = "A secret cannot be a reference: the results of steps are stored in plain text."
            errors.append(FieldError(f"{pointer}/params{json_pointer(path)}", "secret_reference", message))
        return value

    if has_secrets(kind.params):
        map_secrets(kind.params, params, check)
    if errors:
        raise Problem("validation", errors=errors)


def _find_queue(kind: AnyKind, params: Mapping[str, Any]) -> Queue:
    """Return the queue of a step, by those of its params that are known now."""
    known = {name: value for name, value in params.items() if next(iterate_references(value), None) is None}
    try:
        return kind.queue_for(kind.params.model_validate_json(orjson.dumps(known)))
    except ValidationError:
        return kind.default_queue


def _check_graph(steps: Sequence[_Step]) -> list[FieldError]:
    """Return what is wrong with the names of steps, and set `after` of each step to all steps that it waits for."""
    errors = []
    names: set[str] = set()
    for step in steps:
        if step.fields.name in names:
            errors.append(FieldError(f"{step.pointer}/name", "duplicate_name", "Another step has this name."))
        names.add(step.fields.name)
    for step in steps:
        wanted = {f"{step.pointer}/after/{place}": name for place, name in enumerate(step.fields.after)}
        for reference in step.references:
            if reference.source != ITEM:
                wanted[f"{step.pointer}/params{json_pointer(reference.pointer)}"] = reference.source
            elif step.for_each is None:
                pointer = f"{step.pointer}/params{json_pointer(reference.pointer)}"
                errors.append(FieldError(pointer, "no_item", "Only the params of a step with for_each have an item."))
        if step.for_each is not None:
            wanted[f"{step.pointer}/for_each"] = step.for_each.source
        for pointer, name in wanted.items():
            if name == step.fields.name:
                errors.append(FieldError(pointer, "cycle", "A step cannot wait for itself."))
            elif name not in names:
                errors.append(FieldError(pointer, "unknown_step", f"The workflow has no step {name}."))
        step.after = list(dict.fromkeys(wanted.values()))
    return errors


def _sort(steps: Sequence[_Step], prefix: str) -> dict[str, int]:
    """Return the place of each step in an order in which it comes after the steps that it waits for."""
    places: dict[str, int] = {}
    left = list(steps)
    while left:
        ready = [step for step in left if all(name in places for name in step.after)]
        if not ready:
            # Steps that merely wait for a cycle are not part of it.
            inside = _find_cycle(left)
            message = f"The steps wait for each other: {' → '.join([*inside, inside[0]])}."
            pointer = next(step.pointer for step in left if step.fields.name == inside[0])
            raise invalid(f"{pointer}/after", "cycle", message)
        for step in ready:
            places[step.fields.name] = len(places)
        left = [step for step in left if step.fields.name not in places]
    return places


def _find_cycle(steps: Sequence[_Step]) -> list[str]:
    """Return the names of steps each of which waits for the next, and the last of them for the first."""
    waits_for = {step.fields.name: step.after for step in steps}
    way = [steps[0].fields.name]
    while True:
        following = next(name for name in waits_for[way[-1]] if name in waits_for)
        if following in way:
            return way[way.index(following) :]
        way.append(following)


def _check_types(step: _Step, steps: Mapping[str, _Step]) -> list[FieldError]:
    """Return the references that name what no step gives, or what the param cannot be."""
    errors = []
    items: Sequence[Schema] = [{}]
    if step.for_each is not None:
        found = _find_source(step.for_each, steps)
        if not found:
            errors.append(_unknown_value(step.for_each, f"{step.pointer}/for_each", steps))
        elif not can_be(found, _LIST):
            errors.append(
                FieldError(f"{step.pointer}/for_each", "reference_type", f"{step.for_each.written} is not a list.")
            )
        else:
            items = [inner for outer in found for inner in find_schemas(outer, ["0"])]
    params = kind_schemas()[step.parsed.kind_name].params
    for reference in step.references:
        pointer = f"{step.pointer}/params{json_pointer(reference.pointer)}"
        if reference.source == ITEM:
            found = [inner for outer in items for inner in find_schemas(outer, reference.path)]
        else:
            found = _find_source(reference, steps)
        target = find_schemas(params, reference.pointer)
        if not target:
            errors.append(FieldError(pointer, "extra_forbidden", "Unknown field"))
        elif not found:
            errors.append(_unknown_value(reference, pointer, steps))
        elif not can_be(found, target):
            errors.append(
                FieldError(pointer, "reference_type", f"{reference.written} has a type that this param cannot have.")
            )
    return errors


def _find_source(reference: Reference, steps: Mapping[str, _Step]) -> Sequence[Schema]:
    """Return the schemas of the value that a reference names, or none if its step gives no such value."""
    source = steps[reference.source]
    result = kind_schemas()[source.parsed.kind_name].result
    schema = step_schema(result, makes_files=source.parsed.kind.uses_files, fans_out=source.for_each is not None)
    return find_schemas(schema, reference.path) if reference.path else []


def _unknown_value(reference: Reference, pointer: str, steps: Mapping[str, _Step]) -> FieldError:
    if reference.source == ITEM:
        return FieldError(pointer, "unknown_reference", f"The elements of the list have no {'.'.join(reference.path)}.")
    source = steps[reference.source]
    has = "results, artifacts and status" if source.for_each is not None else "result, artifacts, status and error"
    message = f"There is no {reference.written}: a step of the kind {source.parsed.kind_name} has {has}."
    if len(reference.path) > 1:
        message = f"There is no {reference.written}: see result_schema of {source.parsed.kind_name} at GET /kinds."
    return FieldError(pointer, "unknown_reference", message)


def _plan(step: _Step, place: int) -> StepPlan:
    parsed = step.parsed
    task = make_task(
        parsed.kind_name, parsed.kind, parsed.params, parsed.queue, parsed.options, PLATFORM_ID, PLATFORM_ID
    )
    task.files = [file.file_id for file in parsed.files]
    (submission,) = orjson.loads(submission_document([task]))
    return StepPlan(
        name=step.fields.name,
        position=step.position,
        place=place,
        after=step.after,
        on_failure=step.fields.on_failure,
        submission={
            key: value for key, value in submission.items() if key not in {"id", "organization_id", "owner_id"}
        },
        refs=[reference.document() for reference in step.references],
        for_each=None if step.for_each is None else step.for_each.document(),
    )
