"""Submissions of one kind whose body holds the params and the options side by side: `/reports` and `/emails`."""

from __future__ import annotations

from fastapi import Request, Response

from api.auth.caller import Caller
from api.http.answers import private_json
from api.http.body import json_body
from api.http.headers import find_header
from api.http.query_strings import read_validate_only
from api.submitting.idempotency import read_idempotency_key
from api.submitting.parsing import parse_side_by_side
from api.submitting.submissions import Submissions, submission_request
from shared.settings import Settings


async def submit_side_by_side(
    request: Request, caller: Caller, settings: Settings, submissions: Submissions, kind_name: str
) -> Response:
    """Store one task of the kind and return the answer."""
    validate_only = read_validate_only(request.scope["query_string"])
    key = read_idempotency_key(find_header(request, "idempotency-key"))
    body = await json_body(request, settings.max_json_bytes)
    parsed = parse_side_by_side(body, caller, kind_name)
    if validate_only:
        await submissions.check_files([parsed], caller)
        return private_json(b'{"valid":true}')
    answer = await submissions.accept(parsed, submission_request(request, caller, body, key))
    return private_json(answer.body, answer.status, answer.headers())
