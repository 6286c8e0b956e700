"""Calls each kind of route through the client that openapi-python-client generated: `call_every_route.py URL KEY`.

`tests/api/openapi/test_generated_clients.py` runs this with the Python of the generator, which has what the client imports.
A call that is not answered as expected raises.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from io import BytesIO
from typing import TypeVar

from taskmill_client import AuthenticatedClient, Client
from taskmill_client.api.batches import cancel_batch, get_batch
from taskmill_client.api.emails import submit_email
from taskmill_client.api.files import delete_file, download_file, get_file, list_files, upload_file
from taskmill_client.api.health import get_health, get_readiness
from taskmill_client.api.kinds import list_kinds
from taskmill_client.api.problems import explain_problem
from taskmill_client.api.queues import get_queue, list_queues
from taskmill_client.api.reports import submit_report
from taskmill_client.api.schedules import (
    change_schedule,
    create_schedule,
    delete_schedule,
    get_schedule,
    list_schedules,
    preview_schedule,
    run_schedule,
)
from taskmill_client.api.tasks import (
    cancel_task,
    create_token,
    delete_task,
    explain_waiting,
    get_task,
    list_failures,
    list_tasks,
    read_log,
    rerun_task,
    retry_task,
    submit_batch,
    submit_bulk,
    submit_task,
)
from taskmill_client.api.webhooks import (
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    get_endpoint,
    get_secret,
    list_deliveries,
    list_endpoints,
)
from taskmill_client.api.workflows import (
    cancel_workflow,
    delete_workflow,
    get_workflow,
    list_workflows,
    submit_workflow,
)
from taskmill_client.models import (
    Batch,
    BatchState,
    BulkAction,
    BulkRequest,
    EmailSendRequest,
    EmailSendSubmission,
    Explanation,
    FailureGroups,
    FilePage,
    FilesInspectSubmission,
    InspectParams,
    Kinds,
    ListTasksQueue,
    NewSchedule,
    NewScheduleKind,
    NewScheduleParams,
    NewWebhookEndpoint,
    Problem,
    Readiness,
    ReportSource,
    ReportsRunRequest,
    Rerun,
    Schedule,
    ScheduleChange,
    SchedulePage,
    SchedulePreview,
    ScheduleRule,
    SendParams,
    StreamToken,
    SubmittedBatch,
    Task,
    TaskCount,
    TaskFilter,
    TaskLogPage,
    TaskPage,
    TasksById,
    TaskStatus,
    UploadFileBody,
    Valid,
    Waiting,
    WebhookDeliveryPage,
    WebhookEndpoint,
    WebhookEndpointChange,
    WebhookEndpointPage,
    WebhookSecret,
    Workflow,
    WorkflowPage,
    WorkflowSubmission,
)
from taskmill_client.models import File as StoredFile
from taskmill_client.types import File

T = TypeVar("T")
CONTENT = b"region,amount\nnorth,3\nsouth,4\n"


def the(model: type[T], answer: object) -> T:
    """Return an answer that is of the expected model."""
    if not isinstance(answer, model):
        raise TypeError(f"expected {model.__name__}, got {answer!r}")
    return answer


def expect(actual: object, expected: object) -> None:
    if actual != expected:
        raise ValueError(f"expected {expected!r}, got {actual!r}")


def call_file_routes(client: AuthenticatedClient) -> StoredFile:
    body = UploadFileBody(file=File(BytesIO(CONTENT), "sales.csv", "text/csv"), keep_for="3600")
    task = the(Task, upload_file.sync(client=client, body=body))
    file = the(StoredFile, get_file.sync(file_id=task.params["file_id"], client=client))
    expect((file.name, file.size), ("sales.csv", len(CONTENT)))
    expect(the(FilePage, list_files.sync(client=client)).items[0].id, file.id)
    expect(the(File, download_file.sync(file_id=file.id, client=client)).payload.read(), CONTENT)
    return file


def call_submitting_routes(client: AuthenticatedClient, file: StoredFile) -> Task:
    message = SendParams(to=["Ada <ada@example.com>"], subject="Hello", text="Good morning.")
    email = EmailSendSubmission(kind="email.send", params=message, tags=["generated"])
    task = the(Task, submit_task.sync(client=client, body=email, idempotency_key="generated-1"))
    again = submit_task.sync_detailed(client=client, body=email, idempotency_key="generated-1")
    expect((the(Task, again.parsed).id, again.headers["idempotency-replayed"]), (task.id, "true"))
    the(Valid, submit_task.sync(client=client, body=email, validate_only=True))

    unique = EmailSendSubmission(kind="email.send", params=message, unique_for=600)
    first = the(Task, submit_task.sync(client=client, body=unique))
    second = submit_task.sync_detailed(client=client, body=unique)
    expect((second.status_code, the(Task, second.parsed).id), (HTTPStatus.OK, first.id))

    for request in (
        EmailSendRequest(to=["ada@example.com"], text="Without reply_to."),
        EmailSendRequest(to=["ada@example.com"], text="With one.", reply_to="support@example.com"),
        EmailSendRequest(to=["ada@example.com"], text="With two.", reply_to=["a@example.com", "b@example.com"]),
    ):
        the(Task, submit_email.sync(client=client, body=request))

    source = ReportSource(name="sales", file_id=file.id)
    report = ReportsRunRequest(sources=[source], query="SELECT sum(amount) FROM sales")
    expect(the(Task, submit_report.sync(client=client, body=report)).queue, "reports")
    return task


def call_following_routes(client: AuthenticatedClient, task: Task, file: StoredFile) -> None:
    expect(the(Task, get_task.sync(task_id=task.id, client=client)).status, TaskStatus.QUEUED)
    page = the(TaskPage, list_tasks.sync(client=client, queue=ListTasksQueue.EMAIL, tag="generated", limit=10))
    expect([item.id for item in page.items], [task.id])
    by_id = the(TasksById, list_tasks.sync(client=client, ids=f"{task.id},{file.id}"))
    expect(([item.id for item in by_id.items], by_id.missing), ([task.id], [file.id]))

    expect(the(Task, cancel_task.sync(task_id=task.id, client=client)).status, TaskStatus.CANCELLED)
    expect(the(Task, retry_task.sync(task_id=task.id, client=client)).status, TaskStatus.QUEUED)
    refused = the(Problem, delete_task.sync(task_id=task.id, client=client))
    expect((refused.status, refused.type_), (409, "/problems/task-not-done"))
    cancelled = the(Task, cancel_task.sync(task_id=task.id, client=client))
    expect(cancelled.error.type_ if cancelled.error else None, "/problems/cancelled")
    the(FailureGroups, list_failures.sync(client=client))
    count = BulkRequest(action=BulkAction.RETRY, filter_=TaskFilter(tag="generated"), dry_run=True)
    expect(the(TaskCount, submit_bulk.sync(client=client, body=count)).count, 1)
    again = the(Task, rerun_task.sync(task_id=task.id, client=client, body=Rerun(priority=9)))
    expect((again.rerun_of, again.priority), (task.id, 9))
    expect(the(Waiting, explain_waiting.sync(task_id=again.id, client=client)).status, TaskStatus.QUEUED)
    expect(the(TaskLogPage, read_log.sync(task_id=again.id, client=client)).items, [])
    the(StreamToken, create_token.sync(task_id=again.id, client=client))
    expect(delete_task.sync_detailed(task_id=task.id, client=client).status_code, HTTPStatus.NO_CONTENT)
    gone = the(Problem, get_task.sync(task_id=task.id, client=client))
    expect((gone.status, gone.type_), (410, "/problems/gone"))


def call_batch_routes(client: AuthenticatedClient, file: StoredFile) -> None:
    tasks = [FilesInspectSubmission(kind="files.inspect", params=InspectParams(file_id=file.id)) for _ in range(2)]
    batch = the(SubmittedBatch, submit_batch.sync(client=client, body=Batch(tasks=tasks)))
    expect(the(BatchState, get_batch.sync(batch_id=batch.batch_id, client=client)).total, 2)
    state = the(BatchState, cancel_batch.sync(batch_id=batch.batch_id, client=client))
    expect(state.counts.to_dict(), {"cancelled": 2})


def call_schedule_routes(client: AuthenticatedClient) -> None:
    preview = the(SchedulePreview, preview_schedule.sync(client=client, body=ScheduleRule(cron="30 2 * * *")))
    expect(len(preview.times), 10)
    params = NewScheduleParams.from_dict({"to": ["ada@example.com"], "text": "Good morning."})
    new = NewSchedule(name="generated", kind=NewScheduleKind.EMAIL_SEND, every=3600, params=params)
    schedule = the(Schedule, create_schedule.sync(client=client, body=new))
    expect([item.id for item in the(SchedulePage, list_schedules.sync(client=client)).items], [schedule.id])
    found = get_schedule.sync_detailed(schedule_id=schedule.id, client=client)
    change = ScheduleChange(enabled=False)
    changed = change_schedule.sync(schedule_id=schedule.id, client=client, body=change, if_match=found.headers["etag"])
    expect((the(Schedule, changed).enabled, the(Schedule, changed).name), (False, "generated"))
    the(Task, run_schedule.sync(schedule_id=schedule.id, client=client))
    deleted = delete_schedule.sync_detailed(schedule_id=schedule.id, client=client)
    expect(deleted.status_code, HTTPStatus.NO_CONTENT)


def call_workflow_routes(client: AuthenticatedClient, file: StoredFile) -> None:
    read = {"name": "read", "kind": "files.inspect", "params": {"file_id": str(file.id)}}
    kind = {"$from": "read.result.media_type"}
    send = {
        "name": "send",
        "kind": "email.send",
        "params": {"to": ["ada@example.com"], "text": "Read.", "subject": kind},
    }
    body = WorkflowSubmission.from_dict({"name": "generated", "steps": [read, send]})
    workflow = the(Workflow, submit_workflow.sync(client=client, body=body))
    expect([step.name for step in workflow.steps], ["read", "send"])
    expect([item.id for item in the(WorkflowPage, list_workflows.sync(client=client)).items], [workflow.id])
    cancelled = the(Workflow, cancel_workflow.sync(workflow_id=workflow.id, client=client))
    expect(cancelled.done, True)
    the(Workflow, get_workflow.sync(workflow_id=workflow.id, client=client))
    deleted = delete_workflow.sync_detailed(workflow_id=workflow.id, client=client)
    expect(deleted.status_code, HTTPStatus.NO_CONTENT)


def call_webhook_routes(client: AuthenticatedClient) -> None:
    new = NewWebhookEndpoint.from_dict({"url": "http://127.0.0.1:9/", "event_types": ["task.failed"]})
    endpoint = the(WebhookEndpoint, create_endpoint.sync(client=client, body=new))
    listed = the(WebhookEndpointPage, list_endpoints.sync(client=client))
    expect([item.id for item in listed.items], [endpoint.id])
    found = get_endpoint.sync_detailed(endpoint_id=endpoint.id, client=client)
    change = WebhookEndpointChange(enabled=False)
    changed = change_endpoint.sync(endpoint_id=endpoint.id, client=client, body=change, if_match=found.headers["etag"])
    expect(the(WebhookEndpoint, changed).enabled, False)
    expect(the(WebhookDeliveryPage, list_deliveries.sync(client=client)).items, [])
    the(WebhookSecret, get_secret.sync(client=client))
    deleted = delete_endpoint.sync_detailed(endpoint_id=endpoint.id, client=client)
    expect(deleted.status_code, HTTPStatus.NO_CONTENT)


def call_queue_routes(client: AuthenticatedClient) -> None:
    for refused in (list_queues.sync(client=client), get_queue.sync(queue="email", client=client)):
        expect((the(Problem, refused).status, the(Problem, refused).type_), (403, "/problems/forbidden"))


def call_open_routes(client: Client) -> None:
    expect(get_health.sync_detailed(client=client).status_code, HTTPStatus.OK)
    the(Readiness, get_readiness.sync(client=client))
    explanation = the(Explanation, explain_problem.sync(name="validation", client=client))
    expect(explanation.status, 422)


def main(url: str, key: str) -> None:
    client = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)
    file = call_file_routes(client)
    task = call_submitting_routes(client, file)
    call_following_routes(client, task, file)
    call_batch_routes(client, file)
    call_schedule_routes(client)
    call_workflow_routes(client, file)
    call_webhook_routes(client)
    call_queue_routes(client)
    expect("email.send" in {kind.kind for kind in the(Kinds, list_kinds.sync(client=client)).items}, True)
    call_open_routes(Client(base_url=url))
    in_use = the(Problem, delete_file.sync(file_id=file.id, client=client))
    expect((in_use.status, in_use.type_), (409, "/problems/file-in-use"))


main(*sys.argv[1:])
