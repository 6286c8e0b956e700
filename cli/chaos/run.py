"""`taskmill chaos`: runs a local stack under real work and planned faults, and checks every promise."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import typer
from psycopg.rows import namedtuple_row

from cli.chaos.checks import (
    find_wrong_answers,
    find_wrong_follow_ups,
    find_wrong_mail,
    find_wrong_slots,
    find_wrong_streams,
    find_wrong_webhooks,
    find_wrong_workflows,
    measure_sweeps,
)
from cli.chaos.faults import FaultThrower, NothingHit
from cli.chaos.mail_server import MailServer
from cli.chaos.receiver import WebhookReceiver
from cli.chaos.schedule import FAULTS, Fault, plan_faults
from cli.chaos.workload import Workload
from cli.local_stack.stack import LocalStack
from shared.queries import chaos as queries
from shared.settings import Settings
from shared.verification import Report, verify

SETTLE_SECONDS: Final = 180.0
LISTENERS_SECONDS: Final = 30.0
"""How long the listeners of event streams may take to receive the last events, once every task is done."""
SHOWN_CHARACTERS: Final = 8000
"""How much of the log of the stack is printed when a promise is broken. In CI, the rest is lost."""


@dataclass(frozen=True)
class ChaosOptions:
    """The options of a run."""

    seed: int
    seconds: float
    rate: float
    lease_seconds: float
    faults: Sequence[str]


@dataclass
class Outcome:
    """What a run has shown."""

    schedule: list[Fault]
    thrown: list[tuple[Fault, float]] = field(default_factory=list)
    """Each fault that hit something, with the Unix time."""
    backlog_seconds: float | None = None
    """The time from the end of the last fault until no task was due or running; None if that never happened."""
    settled: bool = False
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    swept_after_seconds: list[float] = field(default_factory=list)
    """For each swept attempt, the time since its worker was lost; sorted."""
    broken: list[str] = field(default_factory=list)
    report: Report | None = None


def parse_faults(text: str | None) -> list[str]:
    """Parse a list of faults, separated by commas; None means all. Raises `typer.BadParameter`."""
    names = [name.strip() for name in text.split(",") if name.strip()] if text is not None else list(FAULTS)
    if unknown := sorted(set(names) - set(FAULTS)):
        raise typer.BadParameter(f"unknown: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return names


def run_chaos(options: ChaosOptions) -> int:
    """Run, print, and return the exit code: 0 when every promise held, 1 when one is broken."""
    schedule = plan_faults(options.seed, options.seconds, options.faults, options.lease_seconds)
    print(
        f"Seed {options.seed}, {options.seconds:.0f} s, {options.rate:g} tasks a second, lease {options.lease_seconds:g} s"
    )
    for fault in schedule:
        print(f"  {fault}")
    mail = MailServer()
    mail.start()
    receiver = WebhookReceiver()
    receiver.start()
    environment = {
        "TASKMILL_ALLOWED_NETWORKS": "127.0.0.0/8",
        "TASKMILL_SMTP_URL": mail.url,
        "TASKMILL_LEASE_SECONDS": str(options.lease_seconds),
        "TASKMILL_RERING_SECONDS": str(options.lease_seconds),
        "TASKMILL_DATABASE_URL": "",
        "TASKMILL_BROKER_URL": "",
        "TASKMILL_STORAGE_URL": "",
    }
    stack = LocalStack(environment=environment)
    passed = False
    try:
        stack.start()
        run = _Run(options, stack, mail, receiver, Outcome(schedule))
        run.go()
        _print_outcome(run)
        passed = not run.outcome.broken
    finally:
        stack.stop()
        mail.stop()
        receiver.stop()
        if passed:
            stack.remove()
        else:
            print(f"The data directory {stack.data_dir} was kept; the log is {stack.log_path}")
            if stack.log_path.exists():
                print(
                    f"The end of the log:\n{stack.log_path.read_text(encoding='utf-8', errors='replace')[-SHOWN_CHARACTERS:]}"
                )
    return 0 if passed else 1


class _Run:
    def __init__(
        self,
        options: ChaosOptions,
        stack: LocalStack,
        mail: MailServer,
        receiver: WebhookReceiver,
        outcome: Outcome,
    ) -> None:
        ready = stack.ready
        self.options = options
        self.mail = mail
        self.receiver = receiver
        self.outcome = outcome
        self._stack = stack
        self.workload = Workload(ready["api_url"], ready["api_key"], options.rate, options.seed, self._find_api_pid)
        self._thrower = FaultThrower(stack, mail, options.lease_seconds)
        self._settings = Settings(
            database_url=ready["database_url"],
            broker_url=ready["broker_url"],
            storage_url=ready["storage_url"],
            lease_seconds=options.lease_seconds,
        )

    def go(self) -> None:
        self._schedule_id, self._slots = self.workload.create_schedule(self.options.seconds)
        self.receiver.secret = self.workload.create_endpoint(self.receiver.url)
        self.workload.start()
        began = time.monotonic()
        for fault in self.outcome.schedule:
            time.sleep(max(0.0, began + fault.at_seconds - time.monotonic()))
            print(f"  now at {time.monotonic() - began:5.1f} s: {fault.name}", flush=True)
            try:
                self.outcome.thrown.append((fault, self._thrower.throw(fault)))
            except NothingHit as nothing:
                print(f"    nothing was hit: {nothing}", flush=True)
        last_fault_ended = time.monotonic()
        time.sleep(max(0.0, began + self.options.seconds - time.monotonic()))
        self.workload.stop()
        self._settle(last_fault_ended)
        self.workload.listeners.stop(LISTENERS_SECONDS)
        self._check()

    def _find_api_pid(self) -> int | None:
        pids: list[int] | None = self._stack.ready["pids"]["api"]
        return pids[0] if pids else None

    def _settle(self, since: float) -> None:
        """Wait until no task is due or running, then make retries due at once, until every task is done."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            live = self._ask(queries.COUNT_LIVE)[0]
            if live.under_way == 0 and self.outcome.backlog_seconds is None:
                self.outcome.backlog_seconds = time.monotonic() - since
            if live.not_done == 0 and self._ask(queries.IS_SCHEDULE_DONE, self._of_schedule)[0].is_done:
                self.outcome.settled = True
                return
            if live.under_way == 0:
                self._ask(queries.MAKE_RETRIES_DUE)
            time.sleep(0.1)

    def _ask(self, statement: str, parameters: Any = None) -> list[Any]:
        with psycopg.connect(
            self._settings.database_url, autocommit=True, connect_timeout=10, row_factory=namedtuple_row
        ) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def _check(self) -> None:
        outcome, broken = self.outcome, self.outcome.broken
        rows = self._ask(queries.LIST_OUTCOMES, {"ids": list(self.workload.accepted)})
        ends = {row.id: (row.status, row.error_type) for row in rows}
        outcome.statuses.update(status for status, _ in ends.values())
        outcome.errors.update(error for status, error in ends.values() if error and status != "succeeded")
        outcome.report = verify(self._settings, deep=True)
        outcome.swept_after_seconds = measure_sweeps(outcome.thrown, self._ask(queries.LIST_SWEPT_ATTEMPTS))
        if not outcome.settled:
            broken.append(f"not every task was done {SETTLE_SECONDS:.0f} s after the work ended")
        if missing := len(self.workload.accepted) - len(ends):
            broken.append(f"{missing} tasks that were answered with 202 are missing")
        broken += [f"{task_id} is {status}" for task_id, (status, _) in ends.items() if status not in _ENDS]
        broken += [f"{finding.check}: {finding.subject}: {finding.detail}" for finding in outcome.report.broken]
        broken += find_wrong_mail(self.mail.accepted, self.workload.recipients, ends)
        scratch = self._stack.data_dir / "scratch"
        broken += [f"left behind: {path}" for path in scratch.glob("worker-*/*") if path.name != "lock"]
        limit = 3 * self.options.lease_seconds
        if outcome.backlog_seconds is not None and outcome.backlog_seconds > limit:
            broken.append(
                f"the backlog was gone {outcome.backlog_seconds:.1f} s after the last fault, later than {limit:.0f} s"
            )
        if outcome.swept_after_seconds and outcome.swept_after_seconds[-1] > limit:
            broken.append(
                f"an attempt was swept {outcome.swept_after_seconds[-1]:.1f} s after its worker was lost, later than {limit:.0f} s"
            )
        for pause in self._thrower.pauses:
            started = self._ask(queries.LIST_STARTED_WHILE_PAUSED, pause._asdict())
            broken += [f"{row.id} started while {pause.queue} was paused, at {row.at}" for row in started]
        broken += [
            f"{row.task_id} was one of {row.tasks} running tasks of the key {row.key}, which allows {row.most}"
            for row in self._ask(queries.LIST_BEYOND_LIMITS)
        ]
        broken += find_wrong_answers(self.workload)
        slots = {slot.at: slot.tasks for slot in self._ask(queries.LIST_SLOTS, self._of_schedule)}
        tasks_of_schedule = self._ask(queries.COUNT_TASKS_OF_SCHEDULE, self._of_schedule)[0].tasks
        broken += find_wrong_slots(self._slots, slots, tasks_of_schedule)
        received = self.workload.listeners.histories
        histories = {row.task_id: row.seqs for row in self._ask(queries.LIST_HISTORIES, {"ids": list(received)})}
        broken += self.workload.listeners.wrong + find_wrong_streams(received, histories)
        workflows, batches = self.workload.workflows, self.workload.batches
        broken += find_wrong_workflows(workflows, self._ask(queries.LIST_WORKFLOW_ENDS, {"ids": list(workflows)}))
        tags = {"batch_ids": list(batches), "tags": list(batches.values())}
        broken += find_wrong_follow_ups(batches, self._ask(queries.LIST_FOLLOWING, tags))
        broken += self.receiver.wrong[:20] + find_wrong_webhooks(self.workload, ends, self.receiver.received)
        undelivered = self._ask(queries.LIST_UNDELIVERED)
        broken += [f"the delivery {row.id} of {row.event_type} is {row.state}" for row in undelivered]

    @property
    def _of_schedule(self) -> dict[str, str]:
        return {"schedule_id": self._schedule_id}


_ENDS: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def _print_outcome(run: _Run) -> None:
    outcome, workload = run.outcome, run.workload
    accepted = Counter(workload.accepted.values())
    print(f"Faults: {len(outcome.thrown)} of {len(outcome.schedule)} hit something")
    print(f"Accepted: {len(workload.accepted)} ({', '.join(f'{n} {work}' for work, n in accepted.most_common())})")
    print(f"Answers: {dict(workload.answers.most_common())}; without an answer in the end: {workload.given_up}")
    listeners = workload.listeners
    events = sum(map(len, listeners.histories.values()))
    print(f"Listeners: {len(listeners.histories)}, with {listeners.connections} connections and {events} events")
    print(f"Ends: {dict(outcome.statuses)}; errors: {dict(outcome.errors)}")
    print(f"Messages accepted by the mail server: {run.mail.accepted.total()} for {len(run.mail.accepted)} recipients")
    print(f"Workflows: {len(workload.workflows)}; batches: {len(workload.batches)}")
    print(f"Webhooks: {len(run.receiver.received)} received, by {run.receiver.requests} requests")
    if outcome.backlog_seconds is not None:
        print(f"The backlog was gone {outcome.backlog_seconds:.1f} s after the last fault")
    if values := outcome.swept_after_seconds:
        print(
            f"Attempts swept after the loss of their worker: {len(values)}, after p50 {percentile(values, 0.5):.1f} s, "
            f"p99 {percentile(values, 0.99):.1f} s, at most {values[-1]:.1f} s"
        )
    print(
        f"/health: slowest {workload.slowest_health_seconds * 1000:.0f} ms, over a second {workload.slow_health} times"
    )
    for line in outcome.broken[:50]:
        print(f"BROKEN: {line}")
    if len(outcome.broken) > 50:
        print(f"and {len(outcome.broken) - 50} more")
    print("Every promise held." if not outcome.broken else "NOT every promise held.")
