"""`POST /reports`: report params and options side by side."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from api.dependencies import SettingsDependency, SubmissionsDependency, SubmitterCaller
from api.http.rate_limits import limited
from api.openapi.operations import submission_body, submission_responses
from api.openapi.submission_schemas import side_by_side_examples, side_by_side_ref
from api.submitting.side_by_side import submit_side_by_side

KIND: Final = "reports.run"
router = APIRouter(tags=["reports"])


@router.post(
    "/reports",
    status_code=202,
    summary="Request a report",
    responses=submission_responses(),
    openapi_extra=submission_body(side_by_side_ref(KIND), side_by_side_examples(KIND)),
)
@limited("submit")
async def submit_report(
    request: Request, caller: SubmitterCaller, settings: SettingsDependency, submissions: SubmissionsDependency
) -> Response:
    """Store a task of the kind `reports.run`, whose params and options stand side by side in the body."""
    return await submit_side_by_side(request, caller, settings, submissions, KIND)
