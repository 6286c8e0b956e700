"""`/admin`: the platform in numbers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.auth.auth_models import Overview, PeopleCounts, StorageCounts, TaskCounts
from api.dependencies import OverviewCaller, ReadsDependency
from api.http.answers import private_answer
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from shared.queries import overview as queries

router = APIRouter(tags=["users"])


@router.get(
    "/admin/overview",
    summary="Get the platform in numbers",
    response_model=Overview,
    response_description="People, tasks, failures and storage.",
    responses=problem_responses(*ANY_CALLER),
)
@limited("read")
async def get_overview(
    request: Request, caller: OverviewCaller, reads: ReadsDependency, query: Annotated[NoQuery, Query()]
) -> Response:
    """Count people, tasks by status, failures of the last 24 hours, and stored files. For admins of the platform."""
    async with reads.connect() as connection:
        people = (await connection.execute(queries.COUNT_PEOPLE)).one()
        tasks = (await connection.execute(queries.COUNT_TASKS)).all()
        failed = (await connection.execute(queries.COUNT_FAILED)).scalar_one()
        files = (await connection.execute(queries.COUNT_FILES)).one()
    by_status = {row.status: row.tasks for row in tasks}
    return private_answer(
        Overview(
            people=PeopleCounts(
                total=people.people,
                disabled=people.disabled,
                with_second_factor=people.with_second_factor,
                organizations=people.organizations,
                sessions=people.sessions,
            ),
            tasks=TaskCounts(total=sum(by_status.values()), by_status=by_status, failed_last_day=failed),
            storage=StorageCounts(files=files.files, bytes=files.bytes),
        )
    )
