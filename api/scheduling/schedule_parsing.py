"""Parses and validates the bodies of requests about schedules: a rule, and the task that is submitted.

The task is validated by the code for submissions, so that a stored schedule can be submitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import ValidationError
from sqlalchemy import null

from api.auth.caller import Caller
from api.http.json_text import load_json
from api.http.problems import FieldError, Problem, invalid, invalid_body, nul_character
from api.openapi.submission_schemas import ref
from api.scheduling.schedule_models import RuleFields, ScheduleFields
from api.submitting.parsing import Parsed, dump_part, parse_submission
from api.workflows.workflow_parsing import ParsedWorkflow, parse_workflow_content
from shared.contracts.catalog import find_kind, list_kinds
from shared.contracts.kind import AnyKind
from shared.schedules.rules import InvalidRule, Rule, parse_rule
from shared.stored_secrets import SecretCipher
from shared.tasks.follow_ups import make_follow_up
from shared.tasks.options import TaskOptions
from shared.tasks.secret_params import restore_masked, seal_params, seal_values
from shared.workflows.submission import SCHEDULED_KIND, dump_plans

TASK_OPTIONS: Final = (
    "priority",
    "ttl",
    "max_attempts",
    "timeout",
    "keep_for",
    "tags",
    "metadata",
    "backoff",
    "concurrency",
    "rate",
)
"""The options that a schedule may set for its tasks. Options that set the time of a task are left out."""
FOLLOW_UP_OPTIONS: Final = ("webhook", "notify")
"""The options about the end of each task, which are stored apart from the others because one may hold a secret."""
MAX_PARAMS_BYTES: Final = 64 << 10
"""The largest params of a schedule, as compact JSON: beat reads those of a hundred schedules at a time, and a page of the
list shows those of two hundred."""
_TASK_FIELDS: Final = frozenset({"kind", "params", *TASK_OPTIONS, *FOLLOW_UP_OPTIONS})
_OTHER_OPTIONS: Final = ("run_at", "delay", "unique_for")


def schedule_components() -> dict[str, dict[str, Any]]:
    """Return the schemas of the bodies that hold a schedule, by component."""
    rule = RuleFields.model_json_schema()
    own = ScheduleFields.model_json_schema(ref_template="#/components/schemas/{model}")
    options = TaskOptions.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    task = {
        "kind": {"enum": [name for name, kind in list_kinds().items() if kind.public]},
        "params": {
            "type": "object",
            "additionalProperties": True,
            "description": "The params of the kind: see `GET /kinds`.",
        },
        **{name: options[name] for name in (*TASK_OPTIONS, *FOLLOW_UP_OPTIONS)},
    }
    workflow = {"allOf": [ref("WorkflowSubmission")], "description": "A workflow, instead of `kind` and `params`."}
    schedule = {
        "type": "object",
        "properties": {**own["properties"], **task, "workflow": workflow},
        "additionalProperties": False,
    }
    return {
        "Missed": own["$defs"]["Missed"],
        "NewSchedule": {
            **schedule,
            "title": "NewSchedule",
            "description": "When the schedule runs, and either the `kind` of its task or its `workflow`.",
            "required": ["name"],
        },
        "ScheduleChange": {
            **schedule,
            "title": "ScheduleChange",
            "description": "The fields of a schedule that change.",
            "minProperties": 1,
        },
        "ScheduleRule": {**rule, "title": "ScheduleRule"},
    }


@dataclass(frozen=True)
class ParsedSchedule:
    """A validated schedule, whose input files have not been checked yet."""

    fields: ScheduleFields
    rule: Rule
    submission: Parsed | ParsedWorkflow
    workflow: dict[str, Any] | None = None
    """The workflow as it was submitted, if it is one."""

    @property
    def submissions(self) -> list[Parsed]:
        """The submissions of the task, or of the steps of the workflow."""
        return [self.submission] if isinstance(self.submission, Parsed) else self.submission.submissions

    def columns(self, cipher: SecretCipher, organization_id: UUID, owner_id: UUID) -> dict[str, Any]:
        """Return the columns of `schedules` that the schedule sets, for an owner."""
        fields = self.fields
        return {
            "name": fields.name,
            **self._submission_columns(cipher, organization_id, owner_id),
            "cron": self.rule.cron,
            "every_seconds": fields.every,
            "timezone": fields.timezone,
            "starts_at": fields.starts_at,
            "ends_at": fields.ends_at,
            "jitter_seconds": fields.jitter,
            "missed": fields.missed.value,
            "overlap": fields.overlap,
            "enabled": fields.enabled,
            "follow_up": None
            if isinstance(self.submission, ParsedWorkflow)
            else make_follow_up(self.submission.options, cipher, organization_id, owner_id),
        }

    def _submission_columns(self, cipher: SecretCipher, organization_id: UUID, owner_id: UUID) -> dict[str, Any]:
        if isinstance(self.submission, ParsedWorkflow):
            plans = self.submission.plan_for(cipher, organization_id, owner_id)
            workflow = {"definition": self._seal_definition(cipher), "plans": dump_plans(plans)}
            return {"kind": SCHEDULED_KIND, "params": {}, "options": {}, "workflow": workflow}
        options = self.submission.options
        return {
            "kind": self.submission.kind_name,
            "params": orjson.loads(seal_params(self.submission.kind, self.submission.params, cipher)),
            "options": options.model_dump(mode="json", include=set(TASK_OPTIONS), exclude_defaults=True),
            "workflow": null(),
        }

    def _seal_definition(self, cipher: SecretCipher) -> dict[str, Any]:
        """Return the workflow as it was submitted, with the secrets of its steps encrypted."""
        assert self.workflow is not None
        return map_step_params(self.workflow, lambda kind, params: seal_values(kind, params, cipher))


def map_step_params(definition: dict[str, Any], function: Callable[[AnyKind, Any], Any]) -> dict[str, Any]:
    """Return a workflow as it was submitted, with the params of each step replaced by `function(kind, params)`."""

    def map_step(step: dict[str, Any]) -> dict[str, Any]:
        kind = find_kind(step["kind"])
        return step if kind is None or "params" not in step else {**step, "params": function(kind, step["params"])}

    return {**definition, "steps": [map_step(step) for step in definition["steps"]]}


def parse_schedule(body: bytes, caller: Caller) -> ParsedSchedule:
    """Validate a body that holds a schedule's fields beside `{kind, params, …options}`. Raises a problem."""
    content = load_json(body)
    if not isinstance(content, dict):
        raise invalid("", "dict_type", "Input should be an object")
    for name in _OTHER_OPTIONS:
        if name in content:
            raise invalid(f"/{name}", "extra_forbidden", "A schedule does not take this option")
    own = {name: value for name, value in content.items() if name in ScheduleFields.model_fields}
    task = {name: value for name, value in content.items() if name not in ScheduleFields.model_fields}
    try:
        fields = ScheduleFields.model_validate_json(dump_part(own, ""))
    except ValidationError as error:
        raise invalid_body(error) from None
    if "\x00" in fields.name:
        raise nul_character("/name")
    if task.get("workflow") is not None:
        return _parse_scheduled_workflow(task, fields, caller)
    task.pop("workflow", None)
    submission = parse_submission(dump_part(task, ""), caller)
    if len(submission.params) > MAX_PARAMS_BYTES:
        raise invalid(
            "/params", "too_long", f"The params of a schedule are at most {MAX_PARAMS_BYTES:,} bytes as compact JSON."
        )
    return ParsedSchedule(fields, find_rule_of(fields), submission)


def _parse_scheduled_workflow(task: dict[str, Any], fields: ScheduleFields, caller: Caller) -> ParsedSchedule:
    workflow = task["workflow"]
    if other := [name for name in task if name != "workflow"]:
        message = "A schedule has a workflow or a task; the options of a workflow's tasks belong to its steps."
        raise Problem("validation", errors=[FieldError(f"/{name}", "not_with_workflow", message) for name in other])
    if not isinstance(workflow, dict):
        raise invalid("/workflow", "dict_type", "Input should be an object")
    if len(dump_part(workflow, "/workflow")) > MAX_PARAMS_BYTES:
        message = f"The workflow of a schedule is at most {MAX_PARAMS_BYTES:,} bytes as compact JSON."
        raise invalid("/workflow", "too_long", message)
    parsed = parse_workflow_content(workflow, caller, "/workflow")
    for submission in parsed.submissions:
        if submission.options.webhook is not None and submission.options.webhook.secret is not None:
            # The schedule shows its workflow as it was submitted.
            message = "The steps of a scheduled workflow have no secrets: the organization's default one signs."
            raise invalid(f"{submission.pointer}/webhook/secret", "secret_in_schedule", message)
    return ParsedSchedule(fields, find_rule_of(fields), parsed, workflow)


def parse_preview(body: bytes) -> Rule:
    """Validate a body that holds a rule alone. Raises a problem."""
    if not isinstance(load_json(body), dict):
        raise invalid("", "dict_type", "Input should be an object")
    try:
        return find_rule_of(RuleFields.model_validate_json(body))
    except ValidationError as error:
        raise invalid_body(error) from None


def apply_patch(stored: dict[str, Any], body: bytes) -> bytes:
    """Return a stored schedule as JSON with the changes of a body, to be validated again.

    A `cron` in the body replaces a stored `every`, and the reverse. Raises a problem for a body that is not an object.
    """
    patch = load_json(body)
    if not isinstance(patch, dict):
        raise invalid("", "dict_type", "Input should be an object")
    if not patch:
        raise invalid("", "empty", "The body has no field to change.")
    changed = {**stored, **patch}
    kind = find_kind(stored["kind"]) if "kind" in stored else None
    if kind is not None and changed["kind"] == stored["kind"]:
        changed["params"] = restore_masked(kind, changed.get("params"), stored["params"])
    if patch.get("workflow") is not None:
        changed = {name: value for name, value in changed.items() if name in patch or name not in _TASK_FIELDS}
    elif patch.get("kind") is not None:
        changed.pop("workflow", None)
    for one, other in (("cron", "every"), ("every", "cron")):
        if patch.get(one) is not None and other not in patch:
            changed.pop(other, None)
    return dump_part({name: value for name, value in changed.items() if value is not None or name in patch}, "")


def find_rule_of(fields: RuleFields) -> Rule:
    """Return the rule that fields describe. Raises a problem at the field at fault."""
    try:
        rule = parse_rule(fields.cron, fields.every, fields.timezone, fields.starts_at, fields.ends_at)
    except InvalidRule as error:
        raise invalid(f"/{error.field}", "invalid_rule", str(error)) from None
    if fields.ends_at is not None and fields.ends_at <= datetime.now(UTC) - timedelta(days=1):
        raise invalid("/ends_at", "in_the_past", "The schedule would have ended already")
    return rule


def only_disables(patch: bytes) -> bool:
    """Return whether a change does nothing but disable a schedule, which is possible whatever has become of its task."""
    content = load_json(patch)
    return isinstance(content, dict) and set(content) == {"enabled"} and content["enabled"] is False


def refuse_platform_change(patch: bytes) -> bool:
    """Return the new value of `enabled` for a schedule of the platform. Raises `forbidden` for any other change."""
    content = load_json(patch)
    if not isinstance(content, dict) or set(content) != {"enabled"} or not isinstance(content["enabled"], bool):
        raise Problem("forbidden", "Only the field `enabled` of the platform's own schedules can be changed.")
    return content["enabled"]
