"""The schemas of the body of `POST /workflows`."""

from __future__ import annotations

from functools import cache
from typing import Any

from api.openapi.submission_schemas import COMPONENT, Schema, ref
from api.workflows.workflow_models import StepFields
from api.workflows.workflow_parsing import MAX_NAME_CHARACTERS
from shared.contracts.catalog import list_kinds
from shared.tasks.options import TaskOptions
from shared.workflows.submission import MAX_STEPS


@cache
def workflow_components() -> dict[str, Schema]:
    """Return the components `WorkflowSubmission` and `WorkflowStepSubmission`."""
    return {
        "WorkflowSubmission": {
            "title": "WorkflowSubmission",
            "description": "Steps, each of which is a task or, with `for_each`, one task for each element of a list.",
            "type": "object",
            "required": ["steps"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS},
                "steps": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_STEPS,
                    "items": ref("WorkflowStepSubmission"),
                },
            },
            "additionalProperties": False,
        },
        "WorkflowStepSubmission": {
            "title": "WorkflowStepSubmission",
            "description": "A step: a submission of any kind, in whose params any value may be a reference such as "
            '`{"$from": "inspect.result.pages"}`, and what it waits for.',
            "type": "object",
            "required": ["name", "kind"],
            "properties": {
                **_fields(StepFields),
                "kind": {"type": "string", "enum": [name for name, kind in list_kinds().items() if kind.public]},
                "params": {
                    "type": "object",
                    "description": "The params of the kind, with references.",
                    "additionalProperties": True,
                },
                **{name: schema for name, schema in _fields(TaskOptions).items() if name != "unique_for"},
            },
            "additionalProperties": False,
        },
    }


def _fields(model: type[StepFields] | type[TaskOptions]) -> dict[str, Any]:
    properties: dict[str, Any] = model.model_json_schema(ref_template=COMPONENT)["properties"]
    return properties
