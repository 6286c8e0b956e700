"""Parses and validates submissions, without access to the database. One problem lists everything that is invalid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from pydantic import BaseModel, ValidationError

from api.auth.caller import Caller
from api.http.json_text import load_json
from api.http.problems import MAX_FIELD_ERRORS, FieldError, Problem, invalid, invalid_body, json_pointer, nul_character
from shared.contracts.catalog import find_kind
from shared.contracts.kind import AnyKind, ReferredFile, list_referred_files
from shared.contracts.secrets import MASK, REVEAL, STORED_KEY, has_secrets
from shared.permissions import Permission
from shared.tasks.options import TaskOptions, dump_params, side_by_side_model, submission_model
from shared.tasks.secret_params import list_masked

MAX_BATCH: Final = 1000
TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


@dataclass
class Parsed:
    """A validated submission, whose input files have not been checked yet."""

    kind_name: str
    kind: AnyKind
    options: TaskOptions
    params: bytes
    """The params as JSON, with their secrets in plain text: `seal_params` encrypts them before they are stored."""
    queue: str
    files: list[ReferredFile] = field(default_factory=list)
    """The files that the params refer to. Their pointers are JSON Pointers into the body."""
    rerun_of: UUID | None = None
    """The task that this submission repeats."""
    pointer: str = ""
    """The JSON Pointer of the submission within the body."""
    params_pointer: str = "/params"
    """The JSON Pointer of its params."""


def read_traceparent(value: str | None) -> str | None:
    """Return the header `traceparent`, or None if it is invalid (W3C Trace Context, section 3.2.2)."""
    return value if value is not None and TRACEPARENT(value) else None


def parse_submission(body: bytes, caller: Caller, prefix: str = "") -> Parsed:
    """Return a validated `{kind, params, …options}`. `prefix` is the JSON Pointer to it within the whole body.

    Raises one problem that lists everything that is invalid.
    """
    content = load_json(body)
    if not isinstance(content, dict):
        raise invalid(prefix, "dict_type", "Input should be an object")
    name = content.get("kind")
    if name is None:
        raise invalid(f"{prefix}/kind", "missing", "Field required")
    kind = submittable_kind(name, caller, f"{prefix}/kind")
    model = submission_model(name)
    try:
        submission = model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid_body(error, prefix) from None
    params: BaseModel = submission.params  # type: ignore[attr-defined]
    return _parsed(
        name,
        kind,
        submission,
        params,
        params.model_dump_json(by_alias=True, context=REVEAL).encode(),
        f"{prefix}/params",
        prefix,
    )


def parse_side_by_side(body: bytes, caller: Caller, kind_name: str) -> Parsed:
    """Return a validated body that has a kind's params and the options side by side.

    Raises one problem that lists everything that is invalid.
    """
    if not isinstance(load_json(body), dict):
        raise invalid("", "dict_type", "Input should be an object")
    kind = submittable_kind(kind_name, caller, "")
    try:
        request = side_by_side_model(kind_name).model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid_body(error) from None
    params = dump_params(request, kind)
    return _parsed(kind_name, kind, request, kind.params.model_validate_json(params), params, "", "")


def submittable_kind(name: object, caller: Caller, pointer: str) -> AnyKind:
    """Return the kind with this name. Raises a problem unless it exists and the caller may submit it."""
    kind = find_kind(name) if isinstance(name, str) else None
    if kind is None or not kind.public:
        raise invalid(pointer, "unknown_kind", "There is no kind of this name. `GET /kinds` lists the kinds.")
    if kind.privileged:
        caller.require(Permission.TASKS_SUBMIT_PLATFORM_KINDS)
    return kind


def _parsed(
    name: str, kind: AnyKind, options: TaskOptions, params: BaseModel, text: bytes, params_pointer: str, prefix: str
) -> Parsed:
    if options.timeout is not None and options.timeout > kind.timeout_seconds:
        raise invalid(
            f"{prefix}/timeout", "less_than_equal", f"The kind allows at most {kind.timeout_seconds} seconds."
        )
    refuse_stored_secrets(kind, text, params_pointer)
    if b"\\u0000" in text or options.tags or options.metadata:
        _refuse_nul(params.model_dump(by_alias=True), params_pointer)
        _refuse_nul(options.tags, f"{prefix}/tags")
        _refuse_nul(options.metadata, f"{prefix}/metadata")
    files = list(list_referred_files(params, params_pointer))
    queue = kind.queue_for(params)
    return Parsed(name, kind, options, text, queue, files, pointer=prefix, params_pointer=params_pointer)


def refuse_stored_secrets(kind: AnyKind, text: bytes, pointer: str) -> None:
    """Raise a problem if params contain what only the platform stores, or the mask of a secret in the place of one."""
    if b'"$secret"' in text:
        raise invalid(pointer, "reserved_name", f"The name {STORED_KEY} is reserved.")
    if has_secrets(kind.params) and (masked := list_masked(kind, orjson.loads(text))):
        message = f"{MASK} is shown in the place of a secret. Send the secret itself."
        raise Problem(
            "validation",
            errors=[FieldError(pointer + json_pointer(path), "masked_secret", message) for path in masked],
        )


def _refuse_nul(value: object, pointer: str) -> None:
    """Raise a problem if a text contains U+0000, which Postgres cannot store."""
    if isinstance(value, str):
        if "\x00" in value:
            raise nul_character(pointer)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_nul(key, pointer)
            _refuse_nul(item, pointer + json_pointer([key]))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            _refuse_nul(item, f"{pointer}/{position}")


def unknown_fields(names: Iterable[str]) -> list[FieldError]:
    """Return an error for each unknown field at the top of a body, up to `MAX_FIELD_ERRORS`."""
    return [
        FieldError(json_pointer([name]), "extra_forbidden", "Unknown field") for name in islice(names, MAX_FIELD_ERRORS)
    ]


def dump_part(content: Any, pointer: str) -> bytes:
    """Return a decoded part of a body as JSON. Raises a problem if it is nested more deeply than orjson can write."""
    try:
        return orjson.dumps(content)
    except orjson.JSONEncodeError:
        raise invalid(pointer, "json_invalid", "The JSON is nested too deeply.") from None


class ParsedBatch(NamedTuple):
    """The validated submissions of a batch, and the one that follows when the last of them has ended."""

    tasks: list[Parsed]
    on_finished: Parsed | None = None

    @property
    def submissions(self) -> list[Parsed]:
        """All submissions of the body."""
        return [*self.tasks, self.on_finished] if self.on_finished is not None else self.tasks


def parse_batch(body: bytes, caller: Caller) -> ParsedBatch:
    """Return the validated submissions of `{"tasks": […], "on_finished": {…}}`.

    Raises one problem that lists what is invalid in all tasks, up to `MAX_FIELD_ERRORS`.
    """
    content = load_json(body)
    if not isinstance(content, dict):
        raise invalid("", "dict_type", "Input should be an object")
    errors = unknown_fields(name for name in content if name not in {"tasks", "on_finished"})
    tasks = content.get("tasks")
    if not isinstance(tasks, list):
        errors.append(
            FieldError("/tasks", "list_type" if "tasks" in content else "missing", "A list of tasks is required")
        )
        raise Problem("validation", errors=errors)
    if not 1 <= len(tasks) <= MAX_BATCH:
        errors.append(FieldError("/tasks", "length", f"1 to {MAX_BATCH} tasks"))
        raise Problem("validation", errors=errors)
    items = {f"/tasks/{position}": item for position, item in enumerate(tasks)}
    if content.get("on_finished") is not None:
        items["/on_finished"] = content["on_finished"]
    parsed = parse_together(items, caller, errors)
    return ParsedBatch(parsed[: len(tasks)], *parsed[len(tasks) :])


def parse_together(items: Mapping[str, Any], caller: Caller, errors: list[FieldError]) -> list[Parsed]:
    """Return validated submissions that are stored together, from their parts of the body by JSON Pointer.

    Raises one problem that lists what is invalid in all of them and the given errors, up to `MAX_FIELD_ERRORS`.
    """
    found = list(errors)
    submissions = []
    for pointer, item in items.items():
        if len(found) >= MAX_FIELD_ERRORS:
            break
        try:
            parsed = parse_submission(dump_part(item, pointer), caller, pointer)
            if parsed.options.unique_for is not None:
                raise invalid(
                    f"{pointer}/unique_for", "not_in_a_batch", "The option unique_for cannot be used in a batch."
                )
            submissions.append(parsed)
        except Problem as problem:
            if problem.name != "validation":
                raise
            found.extend(problem.errors)
    if found:
        raise Problem("validation", errors=found)
    return submissions
