"""Limits of keys, limits on what runs at once, and weights: what the statements of the relay publish."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from shared.database.connections import connect_hot
from shared.queries import hot_tasks
from shared.queries.key_limits import UNBLOCK
from shared.queries.relay import SWEEP
from shared.queries.tasks import RETRY
from shared.settings import Settings
from shared.tables.limits import DEFAULT_SUBJECT
from tests.conftest import PATIENCE_SECONDS
from tests.workers.conftest import MakeDue, Tasks
from workers.relay.relay import PublishedTask, mark_published

PING, OTHER_KIND = "platform.ping", "files.inspect"
OWNER, OTHER = uuid4(), uuid4()
Key = dict[str, object]


class Relay:
    """Publishes with the statements of the relay, and claims with that of workers."""

    def __init__(self, settings: Settings) -> None:
        self.connection = connect_hot(settings, "test-relay")

    def close(self) -> None:
        self.connection.close()

    def mark(self, queue: str = "files", window: int = 1000) -> list[PublishedTask]:
        return sorted(mark_published(self.connection, queue, window), key=lambda task: (task.turn or 0, task.id))

    def publish(self, queue: str = "files", window: int = 1000) -> list[UUID]:
        """Unblock, publish until nothing is left to publish or to block, and return what was published."""
        self.connection.execute(UNBLOCK)
        published = []
        while marked := self.mark(queue, window):
            published += [UUID(task.id) for task in marked if task.is_published]
        return published

    def claim(self, count: int = 100, queue: str = "files") -> list[UUID]:
        parameters = {
            "queues": [queue],
            "counts": [count],
            "kinds": [PING, OTHER_KIND],
            "claims": [uuid4().int >> 66 for _ in range(count)],
            "lease": 60,
            "worker": "a test",
        }
        return [row[0] for row in self.connection.execute(hot_tasks.CLAIM, parameters)]


@pytest.fixture
def relay(settings: Settings) -> Iterator[Relay]:
    relay = Relay(settings)
    yield relay
    relay.close()


@pytest.fixture
def organizations(tasks: Tasks) -> Iterator[None]:
    """Two callers, each the only one of its organization."""
    for owner in (OWNER, OTHER):
        tasks.connection.execute("INSERT INTO organizations (id, name) VALUES (%s, %s)", (owner, str(owner)))
        tasks.connection.execute(
            "INSERT INTO callers (id, organization_id, name) VALUES (%s, %s, 'a caller')", (owner, owner)
        )
    yield
    for table, column in (("limits", "scope"), ("callers", "organization_id"), ("organizations", "id")):
        condition = sql.SQL("") if table == "limits" else sql.SQL(" WHERE {} = ANY(%s)").format(sql.Identifier(column))
        statement = sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) + condition
        tasks.connection.execute(statement, None if table == "limits" else ([OWNER, OTHER],))


def concurrency(limit: int, key: str = "k") -> Key:
    return {"key": key, "limit": limit}


def rate(limit: int, period_seconds: int, key: str = "k") -> Key:
    return {"key": key, "limit": limit, "period_seconds": period_seconds}


def finish(tasks: Tasks, ids: Sequence[UUID], status: str = "succeeded") -> None:
    rows = tasks.connection.execute("SELECT id, claim FROM tasks WHERE id = ANY(%s)", (list(ids),)).fetchall()
    endings = [
        {"id": str(row.id), "claim": row.claim, "status": status, "result": {}, "error": {}, "delay": 60}
        for row in rows
    ]
    tasks.connection.execute(hot_tasks.FINISH, {"document": psycopg.types.json.Jsonb(endings)})


def blocked(tasks: Tasks) -> set[UUID]:
    rows = tasks.connection.execute("SELECT id FROM tasks WHERE status = 'queued' AND blocked_at IS NOT NULL")
    return {row.id for row in rows}


def test_no_more_tasks_of_a_key_are_published_than_its_limit(tasks: Tasks, relay: Relay) -> None:
    ids = tasks.submit(count=5, concurrency=concurrency(2))

    assert relay.publish() == ids[:2]
    assert blocked(tasks) == set(ids[2:])
    assert relay.claim() == ids[:2]
    assert relay.publish() == []

    finish(tasks, ids[:1])

    assert relay.publish() == ids[2:3]


def test_a_full_key_blocks_no_other_work_of_its_queue_and_caller(tasks: Tasks, relay: Relay) -> None:
    running = tasks.submit_one(owner=OWNER, concurrency=concurrency(1))
    assert relay.publish() == [running]
    assert relay.claim() == [running]
    tasks.submit(owner=OWNER, count=50, concurrency=concurrency(1))
    others = [
        tasks.submit_one(owner=OWNER),
        tasks.submit_one(owner=OWNER, concurrency=concurrency(1, "another")),
        tasks.submit_one(owner=OTHER),
        tasks.submit_one(owner=OTHER, concurrency=concurrency(1)),
    ]

    assert set(relay.publish(window=4)) == set(others)


def test_a_task_that_was_blocked_starts_before_younger_ones_of_its_caller(tasks: Tasks, relay: Relay) -> None:
    first, second = tasks.submit(owner=OWNER, count=2, concurrency=concurrency(1))
    younger = tasks.submit(owner=OWNER, count=10)
    assert relay.publish() == [first, *younger]
    assert relay.claim(3) == [first, *younger[:2]]

    finish(tasks, [first])
    later = tasks.submit(owner=OWNER, count=2)

    assert relay.publish() == [second, *later]
    assert relay.claim(1) == [second]
    # The first eleven had the turns 0 to 10, and the blocked one took 11 from its caller.
    assert [tasks.get(task_id).turn for task_id in later] == [12, 13]


def test_the_strictest_limit_of_a_keys_running_tasks_holds(tasks: Tasks, relay: Relay) -> None:
    wide = tasks.submit(count=2, concurrency=concurrency(5))
    assert relay.publish() == wide
    narrow = tasks.submit_one(concurrency=concurrency(1))
    last = tasks.submit_one(concurrency=concurrency(5))

    # The last one waits behind the narrow one, so that this is not overtaken forever.
    assert relay.publish() == []
    assert relay.claim() == wide
    finish(tasks, wide)
    assert relay.publish() == [narrow]
    assert relay.claim() == [narrow]
    assert relay.publish() == []
    finish(tasks, [narrow])
    assert relay.publish() == [last]


def test_younger_tasks_of_a_key_do_not_overtake_one_that_is_blocked(tasks: Tasks, relay: Relay) -> None:
    wide = tasks.submit_one(concurrency=concurrency(5))
    assert relay.publish() == [wide]
    assert relay.claim() == [wide]
    narrow = tasks.submit_one(concurrency=concurrency(1))
    assert relay.publish() == []

    younger = tasks.submit_one(concurrency=concurrency(5))
    urgent = tasks.submit_one(concurrency=concurrency(5), priority=9)

    assert relay.publish() == [urgent]
    assert relay.claim() == [urgent]
    finish(tasks, [wide, urgent])
    assert relay.publish() == [narrow]
    assert relay.claim() == [narrow]
    finish(tasks, [narrow])
    assert relay.publish() == [younger]


def test_a_key_counts_within_its_organization_and_over_all_queues(tasks: Tasks, relay: Relay) -> None:
    in_files = tasks.submit_one(owner=OWNER, concurrency=concurrency(1))
    tasks.submit_one(owner=OWNER, params={"queue": "reports"}, concurrency=concurrency(1))
    of_another = tasks.submit_one(owner=OTHER, params={"queue": "reports"}, concurrency=concurrency(1))

    assert relay.publish("files") == [in_files]
    assert relay.publish("reports") == [of_another]


def test_relays_that_publish_at_once_do_not_exceed_a_limit_together(tasks: Tasks, settings: Settings) -> None:
    queues = ("files", "reports", "email")
    for queue in queues:
        tasks.submit(owner=OWNER, count=5, params={"queue": queue}, concurrency=concurrency(3))
    relays = [Relay(settings) for _ in queues]
    start = threading.Barrier(len(queues))

    def publish(queue: str, relay: Relay) -> int:
        start.wait(PATIENCE_SECONDS)
        return len(relay.publish(queue))

    with ThreadPoolExecutor(len(queues)) as threads:
        published = sum(threads.map(publish, queues, relays))
    published += sum(len(relays[0].publish(queue)) for queue in queues)

    for relay in relays:
        relay.close()
    assert published == 3


@pytest.mark.parametrize("end", ["succeeded", "retrying", "queued", "swept", "cancelled", "unmarked"])
def test_however_an_attempt_ends_its_slot_of_the_key_is_free(
    tasks: Tasks, relay: Relay, make_due: MakeDue, end: str
) -> None:
    first, second = tasks.submit(count=2, concurrency=concurrency(1))
    assert relay.publish() == [first]
    if end == "unmarked":
        tasks.connection.execute("UPDATE tasks SET rung_at = NULL WHERE id = %s", (first,))
        tasks.cancel(first)
    elif end == "cancelled":
        tasks.cancel(first)
    else:
        assert relay.claim() == [first]
    if end == "swept":
        tasks.connection.execute("SET session_replication_role = replica")
        tasks.connection.execute("UPDATE tasks SET lease_until = now() - interval '1 s' WHERE id = %s", (first,))
        tasks.connection.execute("SET session_replication_role = origin")
        tasks.connection.execute(SWEEP, {"limit": 10})
    elif end in {"succeeded", "retrying", "queued"}:
        finish(tasks, [first], end)

    # A requeued task is the first of the key again.
    assert relay.publish() == [first if end == "queued" else second]
    if end in {"retrying", "swept"}:
        make_due(first)
        assert relay.publish() == []
        assert blocked(tasks) == {first}


def test_a_running_task_whose_cancellation_is_requested_keeps_its_slot(tasks: Tasks, relay: Relay) -> None:
    first, _ = tasks.submit(count=2, concurrency=concurrency(1))
    relay.publish()
    assert relay.claim() == [first]

    tasks.cancel(first)

    assert relay.publish() == []


def test_a_blocked_task_can_be_cancelled_and_retried(tasks: Tasks, relay: Relay) -> None:
    first, second = tasks.submit(count=2, concurrency=concurrency(1))
    relay.publish()
    tasks.cancel(second)
    tasks.connection.execute(RETRY, {"ids": [second], "kind_attempts": [1]})
    assert relay.publish() == []

    tasks.cancel(first)

    assert relay.publish() == [second]


def test_a_rate_counts_starts_within_its_period(tasks: Tasks, relay: Relay) -> None:
    ids = tasks.submit(count=5, rate=rate(2, 60))
    assert relay.publish() == ids[:2]
    relay.claim(1)
    # One has started, and one may start at any time.
    assert relay.publish() == []
    relay.claim()
    finish(tasks, ids[:2])
    assert relay.publish() == []

    tasks.connection.execute("UPDATE rate_starts SET at = at - interval '59 s'")
    assert relay.publish() == []
    tasks.connection.execute("UPDATE rate_starts SET at = at - interval '1 s' WHERE task_id = %s", (ids[0],))
    assert relay.publish() == ids[2:3]


def test_each_attempt_and_also_a_deleted_task_count_for_a_rate(tasks: Tasks, relay: Relay, make_due: MakeDue) -> None:
    first, second = tasks.submit(count=2, rate=rate(2, 60), max_attempts=3)
    third = tasks.submit_one(rate=rate(3, 60))
    assert relay.publish() == [first, second]
    assert relay.claim(1) == [first]
    finish(tasks, [first], "retrying")
    assert relay.claim() == [second]
    finish(tasks, [second])
    tasks.connection.execute("SET session_replication_role = replica")
    tasks.connection.execute("DELETE FROM tasks WHERE id = %s", (second,))
    tasks.connection.execute("SET session_replication_role = origin")
    make_due(first)

    assert relay.publish() == []
    tasks.cancel(first)
    assert relay.publish() == [third]


def test_a_task_may_name_a_concurrency_and_a_rate(tasks: Tasks, relay: Relay) -> None:
    first, second, third = tasks.submit(count=3, concurrency=concurrency(1), rate=rate(2, 60))
    assert relay.publish() == [first]
    relay.claim()
    assert relay.publish() == []
    finish(tasks, [first])
    assert relay.publish() == [second]
    relay.claim()
    finish(tasks, [second])
    assert relay.publish() == []
    tasks.connection.execute("UPDATE rate_starts SET at = at - interval '1 hour'")
    assert relay.publish() == [third]


def test_a_paused_kind_holds_back_no_other_kind_of_its_key(tasks: Tasks, relay: Relay) -> None:
    first, paused = tasks.submit(count=2, concurrency=concurrency(1))
    other = tasks.submit_one(concurrency=concurrency(1))
    tasks.connection.execute("UPDATE tasks SET kind = %s WHERE id = ANY(%s)", (OTHER_KIND, [first, other]))
    assert relay.publish() == [first]
    tasks.connection.execute(
        "INSERT INTO pauses (target, name, caller_id) VALUES ('kind', %s, gen_random_uuid())", (PING,)
    )
    try:
        tasks.cancel(first)
        assert relay.publish() == [other]
    finally:
        tasks.connection.execute("DELETE FROM pauses")
    assert tasks.status(paused) == "queued"


def test_unblocking_reads_a_few_rows_of_each_key(tasks: Tasks, relay: Relay) -> None:
    ids = tasks.submit(count=400, concurrency=concurrency(1))
    relay.publish()
    assert len(blocked(tasks)) == 399

    row = relay.connection.execute(UNBLOCK).fetchone()
    assert row == (1, 0)
    tasks.cancel(ids[0])
    assert relay.connection.execute(UNBLOCK).fetchone() == (1, 1)
    # The one that is due needs the room.
    assert relay.connection.execute(UNBLOCK).fetchone() == (1, 0)


@pytest.mark.usefixtures("organizations")
@pytest.mark.parametrize("is_default", [False, True])
@pytest.mark.parametrize(
    ("scope", "name", "target", "allowed"),
    [
        ("organization", "running", "", 3),
        ("caller", "running", "", 3),
        ("organization", "running_by_queue", "files", 3),
        ("organization", "running_by_queue", "reports", 10),
        ("organization", "running_by_kind", PING, 8),
        ("caller", "running_by_kind", OTHER_KIND, 8),
    ],
)
def test_no_more_tasks_are_published_than_may_run_at_once(
    tasks: Tasks, relay: Relay, scope: str, name: str, target: str, allowed: int, is_default: bool
) -> None:
    set_limit(tasks, DEFAULT_SUBJECT if is_default else OWNER, scope, name, target, 3)
    mine = tasks.submit(owner=OWNER, count=5)
    mine += tasks.submit(OTHER_KIND, owner=OWNER, count=5, params={"file_id": str(uuid4())})
    theirs = tasks.submit(owner=OTHER, count=2)

    published = relay.publish()

    assert set(theirs) < set(published)
    assert len(published) == allowed + len(theirs)
    # What is published may run at any time, and what runs counts as well.
    assert set(relay.claim()) == set(published)
    assert relay.publish() == []
    limited_kind = target if name == "running_by_kind" else PING
    finish(tasks, [task_id for task_id in published if task_id in mine and tasks.get(task_id).kind == limited_kind][:1])
    assert len(relay.publish()) == (1 if allowed < len(mine) else 0)


@pytest.mark.usefixtures("organizations")
def test_a_row_without_an_amount_means_no_limit_whatever_the_default(tasks: Tasks, relay: Relay) -> None:
    set_limit(tasks, DEFAULT_SUBJECT, "organization", "running", "", 1)
    set_limit(tasks, OWNER, "organization", "running", "", None)
    mine, theirs = tasks.submit(owner=OWNER, count=5), tasks.submit(owner=OTHER, count=5)

    assert set(relay.publish()) == {*mine, theirs[0]}


@pytest.mark.usefixtures("organizations")
def test_a_new_limit_holds_for_what_is_published_already(tasks: Tasks, relay: Relay) -> None:
    ids = tasks.submit(owner=OWNER, count=6)
    relay.publish()
    assert relay.claim(2) == ids[:2]

    set_limit(tasks, OWNER, "caller", "running", "", 3)

    assert relay.claim() == []
    assert relay.publish() == ids[2:3]
    set_limit(tasks, OWNER, "caller", "running", "", 1)
    assert relay.publish() == []
    assert relay.claim() == []
    finish(tasks, ids[:2])
    assert relay.publish() == ids[2:3]
    tasks.connection.execute("DELETE FROM limits")
    assert relay.publish() == ids[2:]


@pytest.mark.usefixtures("organizations")
@pytest.mark.parametrize("window", [4, 40, 400, 4000])
def test_backlogs_of_weights_1_and_3_start_in_that_ratio(tasks: Tasks, relay: Relay, window: int) -> None:
    set_weight(tasks, OTHER, 3)
    tasks.submit(owner=OWNER, count=500)
    tasks.submit(owner=OTHER, count=500)

    started: list[UUID] = []
    while len(started) < 400:
        relay.publish(window=window)
        started += relay.claim(max(1, min(40, window // 2)))

    owners = [tasks.get(task_id).owner_id for task_id in started]
    for count in range(40, 401, 40):
        assert Counter(owners[:count])[OTHER] == pytest.approx(count * 3 / 4, abs=2)


@pytest.mark.usefixtures("organizations")
def test_a_new_weight_holds_for_what_is_published_already(tasks: Tasks, relay: Relay) -> None:
    tasks.submit(owner=OWNER, count=300)
    tasks.submit(owner=OTHER, count=300)
    relay.publish()
    before = relay.claim(20)

    set_weight(tasks, OWNER, 3)
    relay.publish()
    after = relay.claim(80)

    assert Counter(tasks.get(task_id).owner_id for task_id in before) == {OWNER: 10, OTHER: 10}
    assert Counter(tasks.get(task_id).owner_id for task_id in after)[OWNER] == pytest.approx(60, abs=2)


def set_weight(tasks: Tasks, organization: UUID, weight: int) -> None:
    tasks.connection.execute("UPDATE organizations SET weight = %s WHERE id = %s", (weight, organization))


def set_limit(tasks: Tasks, subject: UUID, scope: str, name: str, target: str, amount: int | None) -> None:
    tasks.connection.execute(
        """INSERT INTO limits (subject_id, scope, name, target, amount) VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT (subject_id, scope, name, target) DO UPDATE SET amount = excluded.amount""",
        (subject, scope, name, target, amount),
    )
