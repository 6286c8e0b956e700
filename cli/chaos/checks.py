"""What a run of `taskmill chaos` must show: each check returns what is wrong, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from cli.chaos.receiver import Event
from cli.chaos.schedule import Fault
from cli.chaos.workflows import Workflow
from cli.chaos.workload import TRY_SECONDS, Workload

MOST_SLOW_HEALTH: Final = 2
"""How many answers of `/health` may take over a second, as one machine runs the servers, the work and the faults."""
_CLAIM_SECONDS: Final = 2.0


class SweptAttempt(Protocol):
    """A row of `LIST_SWEPT_ATTEMPTS`. The times are Unix times."""

    @property
    def queue(self) -> str: ...

    @property
    def claimed_at(self) -> float: ...

    @property
    def swept_at(self) -> float: ...


class WorkflowEnds(Protocol):
    """A row of `LIST_WORKFLOW_ENDS`."""

    @property
    def id(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def ends(self) -> dict[str, list[str]]: ...


class FollowUp(Protocol):
    """A row of `LIST_FOLLOWING`."""

    @property
    def tag(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def is_early(self) -> bool: ...


def find_wrong_slots(expected: Sequence[datetime], tasks_by_slot: Mapping[datetime, int], tasks: int) -> list[str]:
    """Return which slots of a schedule, which has so many tasks in all, did not get exactly one."""
    wrong = [f"the slot {at} has {tasks_by_slot.get(at, 0)} tasks" for at in expected if tasks_by_slot.get(at) != 1]
    wrong += [f"the schedule has no slot {at}, and it ran" for at in sorted(set(tasks_by_slot) - set(expected))]
    if tasks != len(tasks_by_slot):
        wrong.append(f"the schedule has {tasks} tasks and {len(tasks_by_slot)} slots")
    return wrong


def find_wrong_streams(received: Mapping[str, list[int]], histories: Mapping[str, list[int]]) -> list[str]:
    """Return which listeners did not receive each event of their task once, in order."""
    return [
        f"the stream of {task_id} had the events {events} of {histories.get(task_id)}"
        for task_id, events in received.items()
        if events != histories.get(task_id)
    ]


def find_wrong_workflows(workflows: Mapping[str, Workflow], rows: Iterable[WorkflowEnds]) -> list[str]:
    """Return which workflows, by id, did not end as they must, or have a step that was not done exactly once."""
    found = {row.id: (row.status, row.ends) for row in rows}
    return [
        f"the workflow {workflow_id} ended as {found.get(workflow_id)}, and not as {(workflow.status, workflow.ends)}"
        for workflow_id, workflow in workflows.items()
        if found.get(workflow_id) != (workflow.status, workflow.ends)
    ]


def find_wrong_follow_ups(batches: Mapping[str, str], rows: Sequence[FollowUp]) -> list[str]:
    """Return the batches whose `on_finished` was not submitted exactly once, or did not succeed after their tasks.

    `batches` has the tag of the `on_finished` of each batch, by the id of the batch.
    """
    following = {tag: batch_id for batch_id, tag in batches.items()}
    found = {tag: [row.status for row in rows if row.tag == tag] for tag in following}
    wrong = [
        f"the on_finished of the batch {batch_id} ended as {found[tag]}"
        for tag, batch_id in following.items()
        if found[tag] != ["succeeded"]
    ]
    early = [following[row.tag] for row in rows if row.is_early]
    return wrong + [
        f"the on_finished of the batch {batch_id} came before its last task had ended" for batch_id in early
    ]


def find_wrong_webhooks(
    workload: Workload, ends: Mapping[str, tuple[str, str | None]], received: Mapping[str, Event]
) -> list[str]:
    """Return the events that were not received under exactly one `webhook-id`. `received` has the event of each id."""
    counts = Counter(received.values())
    expected = {Event("workflow.finished", workflow_id) for workflow_id in workload.workflows}
    expected |= {Event("batch.finished", batch_id) for batch_id in workload.batches}
    expected |= {Event(f"task.{ends[task_id][0]}", task_id) for task_id in workload.reported if task_id in ends}
    return [
        f"the event {event.type} of {event.subject_id} was received under {counts[event]} ids"
        for event in sorted(expected | set(counts))
        if counts[event] != (event in expected)
    ]


def find_wrong_answers(workload: Workload) -> list[str]:
    """Return what clients saw and no fault excuses."""
    wrong = [f"an unexpected answer: {answer}" for answer in workload.wrong[:20]]
    wrong += [f"a client failed: {failure}" for failure in workload.failed[:20]]
    if workload.given_up:
        wrong.append(f"{workload.given_up} clients repeated a request for {TRY_SECONDS:.0f} s without success")
    if workload.slow_health > MOST_SLOW_HEALTH:
        wrong.append(f"/health took longer than a second {workload.slow_health} times")
    wrong += [f"/health answered {status} {count} times" for status, count in workload.wrong_health.items() if count]
    return wrong


def find_wrong_mail(
    accepted: Mapping[str, int], recipients: Mapping[str, str], ends: Mapping[str, tuple[str, str | None]]
) -> list[str]:
    """Return where the messages that the mail server accepted, by recipient, differ from what the tasks report.

    `recipients` has the recipient of each email, and `ends` the status and the type of the error, both by task id.
    """
    wrong = [f"sent {count} times to {who}" for who, count in accepted.items() if count > 1]
    for task_id, recipient in recipients.items():
        status, error = ends.get(task_id, ("missing", None))
        count = accepted.get(recipient, 0)
        known = error != "/problems/delivery-unknown"
        if known and count != (status == "succeeded"):
            wrong.append(f"{task_id} is {status} ({error}), and {count} messages were accepted")
    return wrong


def measure_sweeps(thrown: Sequence[tuple[Fault, float]], swept: Iterable[SweptAttempt]) -> list[float]:
    """Return, for each swept attempt, the seconds since its worker, or the database, was last hit; sorted.

    A fault before the start of the attempt did not lose it. A claim may be stored a moment after its worker died.
    """
    return sorted(
        attempt.swept_at - max(hits)
        for attempt in swept
        if (
            hits := [
                at
                for fault, at in thrown
                if _loses_leases(fault, attempt.queue) and attempt.claimed_at - _CLAIM_SECONDS <= at <= attempt.swept_at
            ]
        )
    )


def _loses_leases(fault: Fault, queue: str) -> bool:
    """Return whether a fault keeps the worker of a queue from renewing its leases."""
    return fault.name == "crash-postgres" or (fault.name in {"kill-worker", "stop-worker"} and fault.queue == queue)
