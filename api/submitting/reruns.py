"""Reruns done tasks: makes the submission from a stored task and the changes of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from api.auth.caller import Caller
from api.http.json_text import load_json
from api.http.problems import Problem, invalid
from api.submitting.parsing import Parsed, dump_part, parse_submission
from api.submitting.submissions import Submissions
from shared.contracts.catalog import find_kind
from shared.stored_secrets import SecretCipher, UnreadableSecret
from shared.tasks.follow_ups import read_follow_up
from shared.tasks.options import TaskOptions
from shared.tasks.secret_params import open_values, restore_masked
from shared.tasks.states import TaskStatus

MOST_SUBMITTED_ATTEMPTS: Final = 25


def rerun_components() -> dict[str, dict[str, Any]]:
    """Return the schema of the body, by component."""
    schema = TaskOptions.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs")
    params = {
        "type": "object",
        "additionalProperties": True,
        "description": "Params that change: they are merged into those of the task (JSON Merge Patch, RFC 7396).",
    }
    description = (
        "What changes: params, and options. What is left out stays as it was, but for `run_at`, `delay` and `unique_for`, "
        "which the new task has only if the body has them. `webhook` or `notify` that is null is left out."
    )
    properties = {"params": params, **schema["properties"]}
    return {
        "Rerun": {**schema, "title": "Rerun", "description": description, "properties": properties},
    }


def parse_rerun(body: bytes, stored: Any, caller: Caller, cipher: SecretCipher) -> Parsed:
    """Return the submission that repeats a task, a row of `shared.queries.tasks.find_submission`, with a body's changes.

    It is validated as any other submission, since the kind may have changed. Raises a problem.
    """
    changes = load_json(body)
    if not isinstance(changes, dict):
        raise invalid("", "dict_type", "Input should be an object")
    if "kind" in changes:
        raise invalid(
            "/kind", "extra_forbidden", "A rerun has the kind of its task. Submit a new task for another kind."
        )
    if not isinstance(changes.get("params", {}), dict):
        raise invalid("/params", "dict_type", "Input should be an object")
    if stored.organization_id != caller.organization_id:
        raise Problem("forbidden", "Only callers of its own organization may rerun a task.")
    if not TaskStatus(stored.status).done:
        raise Problem("task-not-done", f"The task is {stored.status}. Wait until it is done, or cancel it.")
    kind = find_kind(stored.kind)
    if kind is None or not kind.public:
        raise Problem("conflict", f"Tasks of the kind {stored.kind} cannot be submitted by callers.")
    try:
        params = open_values(kind, stored.params, cipher)
    except UnreadableSecret:
        raise Problem("conflict", "A secret of the task cannot be decrypted any more. Submit a new task.") from None
    options = {
        "priority": stored.priority,
        "ttl": stored.ttl,
        "max_attempts": _first_attempts(stored, kind.max_attempts),
        "timeout": min(stored.timeout_seconds, kind.timeout_seconds),
        "keep_for": stored.keep_seconds,
        "tags": stored.tags,
        "metadata": stored.metadata,
        "backoff": stored.backoff,
        **(stored.key_limits or {}),
    }
    submission = {
        "kind": stored.kind,
        **{name: value for name, value in options.items() if value is not None},
        **_follow_up(stored, changes, cipher),
        **changes,
        "params": restore_masked(kind, merge_patch(params, changes.get("params", {})), params),
    }
    parsed = parse_submission(dump_part(submission, ""), caller)
    parsed.rerun_of = stored.id
    return parsed


async def require_inputs(submissions: Submissions, parsed: Parsed, caller: Caller) -> None:
    """Raise `input-gone` if a file of a task that is rerun was deleted, and other problems with its files."""
    try:
        await submissions.check_files([parsed], caller)
    except Problem as problem:
        if any(error.code == "unknown_file" for error in problem.errors):
            raise Problem("input-gone") from None
        raise


def merge_patch(target: Any, patch: Any) -> Any:
    """Return a JSON value with the changes of a JSON Merge Patch (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _follow_up(stored: Any, changes: Mapping[str, Any], cipher: SecretCipher) -> dict[str, Any]:
    """Return the options `webhook` and `notify` of a stored task, without those that change."""
    columns = {"webhook_url": stored.webhook_url, "webhook_secret": stored.webhook_secret, "notify": stored.notify}
    if "webhook" in changes:
        del columns["webhook_url"], columns["webhook_secret"]
    try:
        found = read_follow_up({name: value for name, value in columns.items() if value is not None}, cipher)
    except UnreadableSecret:
        detail = (
            "The secret of the task's webhook cannot be read any more. Name a webhook in the body, or null for none."
        )
        raise Problem("conflict", detail) from None
    return {name: value for name, value in found.items() if name not in changes}


def _first_attempts(stored: Any, kind_attempts: int) -> int:
    """Return how many attempts a task had when it was submitted: each retry by a caller has added those of its kind."""
    attempts: int = stored.max_attempts - stored.retries * kind_attempts
    return max(1, min(MOST_SUBMITTED_ATTEMPTS, attempts))
