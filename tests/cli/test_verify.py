"""Each kind of corruption is planted into a sound database, and that corruption alone is reported."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Connection
from typer.testing import CliRunner

from cli.local_stack.postgres import PostgresServer
from cli.main import app
from cli.verify import parse_since
from shared.audit.actions import AuditAction
from shared.audit.entries import COMMAND_LINE, Entry, write_entry
from shared.contracts.catalog import list_kinds
from shared.database.connections import connect_hot, make_engine
from shared.identifiers import new_id
from shared.queries import emails, hot_tasks
from shared.queries import schedules as schedule_queries
from shared.queries import tasks as queries
from shared.queries.audit import LOCK_CHAIN, SEAL
from shared.queries.batches import INSERT_FOLLOW_UP
from shared.queries.purging import erase_tasks
from shared.queries.relay import EXPIRE
from shared.queries.webhooks import insert_endpoint
from shared.queries.workflows import INSERT_WORKFLOW
from shared.settings import Settings
from shared.storage.object_store import new_object_key
from shared.storage.open_store import open_object_store
from shared.tasks.options import TaskOptions
from shared.tasks.submission import NewTask, make_task, submission_document
from shared.verification import Report, find_broken_rows, verify
from shared.workflows.submission import NewWorkflow, StepPlan
from tests.claims import claim_tasks
from tests.conftest import Api, Eventually, Parts, new_database

OWNER = new_id()
RETRYING = {"type": "/problems/internal-error", "attempt": 1}


class Rows:
    """A database in which tasks of every fate lie, written by the platform's own statements."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = make_engine(settings, "test")
        self.hot = connect_hot(settings, "test")
        self.store = open_object_store(settings.storage_url)
        self.task: dict[str, UUID] = {}
        self.key = ""
        self._claims: dict[UUID, int] = {}

    def close(self) -> None:
        self.hot.close()
        self.engine.dispose()

    def submit(self, fate: str, **fields: object) -> UUID:
        kind = list_kinds()["platform.ping"]
        task: NewTask = make_task("platform.ping", kind, b"{}", "files", TaskOptions(), OWNER, OWNER)
        for name, value in fields.items():
            setattr(task, name, value)
        self.hot.execute(hot_tasks.SUBMIT_KEYED, {"document": submission_document([task])})
        self.task[fate] = task.id
        return task.id

    def claim(self, task_id: UUID) -> None:
        claim = self._claims[task_id] = int(time.time_ns())
        assert len(claim_tasks(self.hot, [task_id], claims=[claim])) == 1

    def finish(self, task_id: UUID, status: str, **fields: object) -> None:
        ending = {"id": str(task_id), "claim": self._claims[task_id], "status": status, **fields}
        statement = hot_tasks.FINISH_WITH_ARTIFACTS
        assert self.hot.execute(statement, {"document": json.dumps([ending])}).fetchall() == [(task_id, status)]

    def fail(self, task_id: UUID, type: str = "/problems/internal-error") -> None:
        self.finish(task_id, "failed", error={"type": type, "attempt": 1})

    def send(self, task_id: UUID, *, answered: bool) -> UUID:
        intent_id = new_id()
        with self.engine.begin() as connection:
            connection.execute(
                emails.insert_intent(intent_id, task_id, attempt=1, message_id="<m@x>", recipients=["a@example.com"])
            )
            if answered:
                accepted: emails.ReceiptRow = {
                    "recipient": "a@example.com",
                    "status": "accepted",
                    "code": 250,
                    "reply": "ok",
                }
                connection.execute(emails.insert_receipts(intent_id, task_id, [accepted]))
        return intent_id

    def fill(self, folder: Path) -> None:
        endpoint = {
            "id": new_id(),
            "organization_id": OWNER,
            "owner_id": OWNER,
            "url": "http://a.example/",
            "secret": "x",
        }
        with self.engine.begin() as connection:
            connection.execute(insert_endpoint({**endpoint, "event_types": ["task.cancelled"]}))
        self.submit("queued")
        self.submit("scheduled", status="scheduled", delay=3600)
        self.claim(self.submit("running"))
        retrying = self.submit("retrying")
        self.claim(retrying)
        self.finish(retrying, "retrying", error=RETRYING, delay=3600)
        self._fill_with_artifact(folder)
        failed = self.submit("failed")
        self.claim(failed)
        self.finish(failed, "queued")
        self.claim(failed)
        self.hot.execute(
            hot_tasks.REPORT_PROGRESS,
            {"id": failed, "claim": self._claims[failed], "percent": 40, "message": "so far"},
        )
        self.fail(failed)
        retried = self.submit("retried")
        self.claim(retried)
        self.fail(retried)
        self.hot.execute(queries.RETRY, {"ids": [retried], "kind_attempts": [3]})
        running = self.submit("asked to stop")
        self.claim(running)
        self.hot.execute(queries.CANCEL, {"ids": [self.submit("cancelled"), running]})
        self.submit("expired", ttl=0)
        self.hot.execute(EXPIRE, {"limit": 10})
        sent = self.submit("sent")
        self.claim(sent)
        self.send(sent, answered=True)
        self.finish(sent, "succeeded", result={})
        unknown = self.submit("unknown")
        self.claim(unknown)
        self.send(unknown, answered=False)
        self.fail(unknown, "/problems/delivery-unknown")
        batch_id = new_id()
        for position in range(2):
            keyed = {"idempotency_key": "batch", "fingerprint": "00"} if position == 0 else {}
            self.submit(f"batch {position}", batch_id=batch_id, **keyed)
        task = make_task("platform.ping", list_kinds()["platform.ping"], b"{}", "files", TaskOptions(), OWNER, OWNER)
        follow_up = {"batch_id": batch_id, "submissions": submission_document([task])}
        self.hot.execute(INSERT_FOLLOW_UP, follow_up)
        self.task["batch"] = batch_id
        self.task["owner"] = OWNER
        self._fill_with_workflow(json.loads(submission_document([task]))[0])
        self.submit("keyed", idempotency_key="single", fingerprint="00")
        self._fill_with_slot_and_purged()
        self._fill_with_audit()

    def _fill_with_audit(self) -> None:
        with self.engine.begin() as connection:
            write_entry(connection, Entry(COMMAND_LINE, AuditAction.API_KEY_REVOKED, OWNER, OWNER))
            connection.exec_driver_sql(LOCK_CHAIN)
            connection.exec_driver_sql(SEAL, {"limit": 10})
            self.task["audit"] = connection.exec_driver_sql("SELECT id FROM audit_entries").scalar_one()

    def _fill_with_workflow(self, submission: dict[str, object]) -> None:
        plans = [
            StepPlan("first", 0, 0, [], "cancel", submission),
            StepPlan("last", 1, 1, ["first"], "cancel", submission),
        ]
        workflow = NewWorkflow(OWNER, OWNER, plans)
        self.hot.execute(INSERT_WORKFLOW, {"document": workflow.document()})
        self.task["workflow"] = workflow.id

    def _fill_with_artifact(self, folder: Path) -> None:
        task_id = self.submit("succeeded")
        self.claim(task_id)
        content = b"what was made"
        (folder / "made").write_bytes(content)
        self.key = new_object_key()
        self.store.put_file(self.key, folder / "made")
        artifact = {
            "file_id": str(new_id()),
            "name": "made",
            "media_type": "text/plain",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "storage_key": self.key,
            "position": 0,
        }
        self.finish(task_id, "succeeded", result={"n": 1}, artifacts=[artifact])

    def _fill_with_slot_and_purged(self) -> None:
        schedule_id = self.task["schedule"] = new_id()
        purged = self.submit("purged", idempotency_key="purged", fingerprint="00")
        self.claim(purged)
        self.fail(purged)
        with self.engine.begin() as connection:
            connection.execute(schedule_queries.ensure_schedule(schedule_id, "s", "platform.ping", {}, {}, 60))
            slot = self.submit("slot", schedule_id=schedule_id)
            taken = {"schedule_id": schedule_id, "slot": datetime.now(UTC), "task_id": slot}
            connection.execute(schedule_queries.insert_slots([taken]))
            self.hot.execute(
                "INSERT INTO unique_tasks (owner_id, kind, params_sha256, task_id) VALUES (%s, 'x', '', %s)",
                (OWNER, slot),
            )
            for statement in erase_tasks([purged]):
                connection.execute(statement)

    def corrupt(self, connection: Connection, statement: str) -> None:
        """Execute a statement with no trigger, foreign key or constraint in the way; `{fate}` is that task's id."""
        names = {fate.replace(" ", "_"): f"'{task_id}'" for fate, task_id in self.task.items()}
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table, constraint in connection.exec_driver_sql(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND conrelid::regclass::text"
            " IN ('tasks', 'task_events', 'idempotency_keys')"
        ).all():
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
        assert connection.exec_driver_sql(statement.format(**names)).rowcount > 0


@pytest.fixture
def rows(settings: Settings, tmp_path: Path) -> Iterator[Rows]:
    rows = Rows(settings)
    rows.fill(tmp_path)
    yield rows
    rows.close()


@pytest.fixture(scope="module")
def shared_rows(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    """The same for tests that undo what they change."""
    folder = tmp_path_factory.mktemp("verify")
    with new_database(postgres_server) as url:
        rows = Rows(Settings(database_url=url, storage_url=f"file://{folder}/objects", lease_seconds=2))
        rows.fill(folder)
        yield rows
        rows.close()


def found(report: Report) -> set[tuple[str, str]]:
    return {(finding.check, finding.subject) for finding in report.broken}


def leave_object(rows: Rows, folder: Path, age_seconds: float) -> str:
    """Store an object that no file refers to, and return its key."""
    key = new_object_key()
    content = folder / Path(key).name
    content.write_bytes(b"left")
    rows.store.put_file(key, content)
    stored_at = time.time() - age_seconds
    os.utime(folder / "objects" / key, (stored_at, stored_at))
    return key


def test_a_sound_database_has_no_findings(rows: Rows) -> None:
    report = verify(rows.settings, deep=True)

    assert report.sound, report.describe()
    assert report.warnings == []
    assert report.tasks["succeeded"] == 2
    assert (report.files, report.objects) == (1, 1)


CORRUPTIONS = [
    ("a doubled event", "history", "failed", "INSERT INTO task_events SELECT task_id, seq + 1, at, 'log', '{{}}' "
     "FROM task_events WHERE task_id = {failed} ORDER BY seq DESC LIMIT 1"),
    ("a missing event", "history", "failed", "DELETE FROM task_events WHERE task_id = {failed} AND type = 'progress'"),
    ("a version that nobody wrote down", "history", "queued", "UPDATE tasks SET version = version + 1 WHERE id = {queued}"),
    ("a terminal state changed", "moves", "sent", "WITH t AS (UPDATE tasks SET version = version + 1, status = 'failed' "
     "WHERE id = {sent} RETURNING version), p AS (UPDATE task_payloads SET result = NULL, error = '{{}}' "
     "WHERE task_id = {sent}) INSERT INTO task_events SELECT {sent}, version, now(), 'status', '{{\"status\": \"failed\"}}' "
     "FROM t"),
    ("a terminal state left without a person's retry", "moves", "retried", "UPDATE task_events SET data = data - 'retried' "
     "WHERE task_id = {retried}"),
    ("a task that began in the middle", "moves", "cancelled", "UPDATE task_events SET data = '{{\"status\": \"retrying\"}}' "
     "WHERE task_id = {cancelled} AND seq = 1"),
    ("a state that the history does not know", "status", "queued", "UPDATE tasks SET status = 'scheduled' "
     "WHERE id = {queued}"),
    ("an attempt that was not counted", "attempts", "running", "UPDATE tasks SET attempt = 0 WHERE id = {running}"),
    ("more attempts than allowed", "attempts", "running", "UPDATE tasks SET max_attempts = 0 WHERE id = {running}"),
    ("a lease that nobody took back", "leases", "running", "UPDATE tasks SET lease_until = now() - interval '5 s' "
     "WHERE id = {running}"),
    ("a running row without a claim", "leases", "running", "UPDATE tasks SET claim = NULL WHERE id = {running}"),
    ("a lease left behind", "leases", "failed", "UPDATE tasks SET lease_until = now() WHERE id = {failed}"),
    ("a payload gone", "payload", "queued", "DELETE FROM task_payloads WHERE task_id = {queued}"),
    ("a success without a result", "payload", "sent", "UPDATE task_payloads SET result = NULL WHERE task_id = {sent}"),
    ("a failure without an error", "payload", "failed", "UPDATE task_payloads SET error = NULL WHERE task_id = {failed}"),
    ("a result of what still runs", "payload", "running", "UPDATE task_payloads SET result = '1' WHERE task_id = {running}"),
    ("an end without a time", "times", "failed", "UPDATE tasks SET purge_at = NULL WHERE id = {failed}"),
    ("a deleted row", "deleted-rows", "queued", "DELETE FROM tasks WHERE id = {queued}"),
    ("a deleted row with all that hung on it", "idempotency-keys", "keyed", "WITH e AS (DELETE FROM task_events "
     "WHERE task_id = {keyed}), p AS (DELETE FROM task_payloads WHERE task_id = {keyed}), "
     "k AS (DELETE FROM idempotency_keys WHERE key = 'purged'), d AS (DELETE FROM tombstones) "
     "DELETE FROM tasks WHERE id = {keyed}"),
    ("a slot's task gone", "slots", "slot", "WITH e AS (DELETE FROM task_events WHERE task_id = {slot}), p AS (DELETE FROM "
     "task_payloads WHERE task_id = {slot}), u AS (DELETE FROM unique_tasks) DELETE FROM tasks WHERE id = {slot}"),
    ("a schedule that beat passes over", "schedules", "schedule", "WITH sign AS (INSERT INTO signs_of_life (part) "
     "VALUES ('beat')) UPDATE schedules SET next_at = now() - interval '1 hour', planned_at = now() - interval '1 hour'"),
    ("a valid key of a person who is no member", "keys", "queued", "WITH organization AS ("
     "INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), 'left') RETURNING id), person AS ("
     "INSERT INTO people (id, email, email_key) VALUES (gen_random_uuid(), 'a@example.com', 'a@example.com') RETURNING id), "
     "caller AS (INSERT INTO callers (id, organization_id, name, person_id) SELECT gen_random_uuid(), organization.id, 'a', "
     "person.id FROM organization, person RETURNING id) INSERT INTO api_keys (id, caller_id, name, prefix, sha256, role, scopes) "
     "SELECT {queued}, id, 'a', '0123456789ab', sha256('a'), 'client', '{{}}' FROM caller"),
    ("a paused task that is published", "pauses", "queued", "WITH pause AS (INSERT INTO pauses (target, name, caller_id) "
     "VALUES ('queue', 'files', gen_random_uuid())) UPDATE tasks SET rung_at = now() WHERE id = {queued}"),
    ("a key with more running tasks than its limit", "key-limits", "running", "UPDATE tasks SET rung_at = now(), key_limits = "
     "'{{\"concurrency\": {{\"key\": \"k\", \"limit\": 1}}}}', organization_id = owner_id WHERE id IN ({queued}, {running})"),
    ("a blocked task that is published", "key-limits", "queued", "UPDATE tasks SET rung_at = now(), blocked_at = now() "
     "WHERE id = {queued}"),
    ("more starts than a rate allows", "rates", "running", "WITH start AS (INSERT INTO rate_starts (organization_id, key, at, "
     "task_id, attempt_claim) SELECT organization_id, 'k', now(), id, n FROM tasks, generate_series(1, 2) AS n "
     "WHERE id = {running}) UPDATE tasks SET key_limits = "
     "'{{\"rate\": {{\"key\": \"k\", \"limit\": 1, \"period_seconds\": 5}}}}' WHERE id = {running}"),
    ("a published task beyond what may run at once", "running-limits", "queued", "WITH limited AS (INSERT INTO limits "
     "(subject_id, scope, name, amount) SELECT owner_id, 'caller', 'running', 0 FROM tasks WHERE id = {queued}) "
     "UPDATE tasks SET rung_at = now() WHERE id = {queued}"),
    ("a slot done twice", "slots", "queued", "UPDATE tasks SET schedule_id = (SELECT id FROM schedules) "
     "WHERE id = {queued}"),
    ("an action that reports other tasks", "bulk-actions", "sent", "INSERT INTO bulk_actions (task_id, changed) "
     "VALUES ({sent}, 5)"),
    ("an end that an endpoint is not told", "webhooks", "cancelled", "DELETE FROM webhook_deliveries"),
    ("a delivery that no task sends", "webhook-deliveries", "cancelled", "UPDATE webhook_deliveries SET send_task_id = NULL"),
    ("uniqueness that points to nothing", "deleted-rows", "purged", "INSERT INTO unique_tasks (owner_id, kind, "
     "params_sha256, task_id) VALUES (gen_random_uuid(), 'y', '', {purged})"),
    ("a tombstone of what is there", "tombstones", "failed", "INSERT INTO tombstones (id, subject, organization_id, "
     "owner_id) VALUES ({failed}, 'task', gen_random_uuid(), gen_random_uuid())"),
    ("a step that nobody started", "workflows", "workflow", "UPDATE workflow_steps SET after = '{{}}' "
     "WHERE workflow_id = {workflow}"),
    ("a step that ended without its task", "workflows", "workflow", "UPDATE workflow_steps SET status = 'failed', "
     "started_at = now() WHERE workflow_id = {workflow} AND name = 'first'"),
    ("a workflow that was finished early", "workflows", "workflow", "UPDATE workflows SET status = 'failed', "
     "finished_at = now() WHERE id = {workflow}"),
    ("a follow-up that is gone", "batches", "batch", "UPDATE batch_follow_ups SET task_id = gen_random_uuid() "
     "WHERE batch_id = {batch}"),
    ("a receipt without its intent", "receipts", "sent", "DELETE FROM email_intents WHERE task_id = {sent}"),
    ("a receipt for a stranger", "receipts", "sent", "WITH i AS (UPDATE email_intents SET given_up_at = now()) "
     "UPDATE email_receipts SET recipient = 'b@example.com' WHERE task_id = {sent}"),
    ("a message accepted twice", "sent-once", "sent", "WITH i AS (INSERT INTO email_intents SELECT gen_random_uuid(), "
     "task_id, 1, message_id, recipients FROM email_intents WHERE task_id = {sent} RETURNING id) INSERT INTO email_receipts "
     "SELECT i.id, recipient, task_id, status, code, reply FROM i, email_receipts WHERE task_id = {sent}"),
    ("a success of which nobody can know", "delivery-unknown", "sent", "DELETE FROM email_receipts"),
    ("an unknown delivery that the error hides", "delivery-unknown", "unknown", "UPDATE task_payloads "
     "SET error = '{{\"type\": \"/problems/worker-lost\"}}' WHERE task_id = {unknown}"),
    ("an artifact that nobody refers to", "artifacts", "succeeded", "DELETE FROM task_files WHERE role = 'artifact'"),
    ("an artifact of a failure", "artifacts", "failed", "WITH x AS (UPDATE task_files SET task_id = {failed}) "
     "UPDATE files SET task_id = {failed}"),
    ("two unused refresh tokens of a session", "sessions", "queued", "WITH organization AS ("
     "INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), 'of two') RETURNING id), person AS ("
     "INSERT INTO people (id, email, email_key) VALUES (gen_random_uuid(), 'two', 'two') RETURNING id), session AS ("
     "INSERT INTO sessions (id, person_id, organization_id, method, expires_at) SELECT {queued}, person.id, "
     "organization.id, 'password', now() FROM person, organization RETURNING id) INSERT INTO refresh_tokens (sha256, session_id) "
     "SELECT sha256(n::text::bytea), session.id FROM session, generate_series(1, 2) AS n"),
    ("a deleted person with a password", "sessions", "queued", "WITH made AS (SELECT {queued}::uuid AS id) "
     "INSERT INTO people (id, email, email_key, password_hash, disabled_at) SELECT id, '', 'deleted ' || id, 'x', now() FROM made"),
    ("tasks that are not counted", "usage", "owner", "UPDATE usage_by_day SET tasks = 0"),
    ("a stored byte that is not counted", "usage", "owner", "UPDATE stored_bytes SET bytes = bytes - 1"),
    ("a bound below the live tasks", "usage", "owner", "WITH quota AS (INSERT INTO limits (subject_id, scope, name, amount) "
     "VALUES ({owner}, 'caller', 'live_tasks', 5)) INSERT INTO live_task_bounds VALUES ({owner}, 'caller', 0)"),
    ("a link to no file", "file-links", "queued", "INSERT INTO task_files (task_id, file_id, role) "
     "VALUES ({queued}, gen_random_uuid(), 'input')"),
    ("an artifact of another", "file-links", "failed", "INSERT INTO task_files (task_id, file_id, role) "
     "SELECT {failed}, id, 'artifact' FROM files"),
    ("an entry of the audit log that was changed", "audit-entries", "audit", "UPDATE audit_entries SET request_id = 'x'"),
    ("an entry of the audit log that was removed", "audit-entries", "audit", "DELETE FROM audit_entries"),
    ("a seal of the audit log that was changed", "audit-seals", "audit", "UPDATE audit_seals SET "
     "sealed_at = sealed_at - interval '1 second'"),
    ]  # fmt: skip


@pytest.mark.parametrize(("check", "fate", "statement"), [c[1:] for c in CORRUPTIONS], ids=[c[0] for c in CORRUPTIONS])
def test_each_corruption_is_found_by_its_check_only(shared_rows: Rows, check: str, fate: str, statement: str) -> None:
    with shared_rows.engine.connect() as connection:
        shared_rows.corrupt(connection, statement)

        findings = list(find_broken_rows(connection, None, lease_seconds=2))

        connection.rollback()
    assert {finding[:2] for finding in findings} == {(check, str(shared_rows.task[fate]))}, findings


def test_every_check_has_a_corruption() -> None:
    from shared.queries.verification import CHECKS

    assert {check.name for check in CHECKS} <= {corruption[1] for corruption in CORRUPTIONS}


def test_a_missing_object_is_found_under_the_task_that_made_it(rows: Rows) -> None:
    rows.store.delete([rows.key])

    assert found(verify(rows.settings)) == {("objects", str(rows.task["succeeded"]))}


def test_an_object_of_another_size_is_found(rows: Rows, tmp_path: Path) -> None:
    with (tmp_path / "objects" / rows.key).open("ab") as file:
        file.write(b"more")

    assert found(verify(rows.settings)) == {("objects", str(rows.task["succeeded"]))}


def test_only_deep_finds_other_bytes_of_the_same_length(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "objects" / rows.key
    path.write_bytes(b"x" * path.stat().st_size)

    shallow, deep = verify(rows.settings), verify(rows.settings, deep=True)

    assert shallow.sound
    assert found(deep) == {("objects", str(rows.task["succeeded"]))}


def test_a_young_object_without_a_file_is_only_a_warning(rows: Rows, tmp_path: Path) -> None:
    young, due, old = (leave_object(rows, tmp_path, age_seconds=hours * 3600) for hours in (0, 25, 27))

    report = verify(rows.settings)

    assert found(report) == {("orphans", old)}
    assert {warning.subject for warning in report.warnings} == {young, due}


def test_an_object_that_is_deleted_meanwhile_is_not_a_finding(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purged, young = (leave_object(rows, tmp_path, age_seconds=age) for age in (7 * 86_400, 0))
    # A purge commits before the objects are listed, and deletes the object afterwards.
    monkeypatch.setattr("shared.verification.time.sleep", lambda _: rows.store.delete([purged, young]))

    report = verify(rows.settings)

    assert report.sound, report.describe()
    assert report.warnings == []


def test_tasks_before_since_are_not_checked(rows: Rows) -> None:
    with rows.engine.begin() as connection:
        rows.corrupt(connection, "DELETE FROM task_payloads WHERE task_id = {queued}")

    assert not verify(rows.settings, since=parse_since("1h")).sound
    later = verify(rows.settings, since=parse_since("2999-01-01T00:00:00Z"))
    assert later.sound
    assert later.tasks == {}


def test_the_command_lists_broken_promises_and_exits_with_1(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rows.settings.model_dump(mode="json", exclude_unset=True).items():
        monkeypatch.setenv(f"TASKMILL_{name.upper()}", str(value))
    sound = CliRunner().invoke(app, ["verify"])
    with rows.engine.begin() as connection:
        rows.corrupt(connection, "UPDATE tasks SET attempt = 0 WHERE id = {running}")

    text = CliRunner().invoke(app, ["verify", "--since", "1h"])
    document = CliRunner().invoke(app, ["verify", "--json"])

    assert sound.exit_code == 0
    assert "promises hold" in sound.output
    assert text.exit_code == document.exit_code == 1
    assert f"attempts: {rows.task['running']}" in text.output
    assert [finding["subject"] for finding in json.loads(document.output)["broken"]] == [str(rows.task["running"])]


def test_an_invalid_age_is_refused() -> None:
    assert CliRunner().invoke(app, ["verify", "--since", "yesterday"]).exit_code == 2


def test_a_database_under_load_has_no_findings(api: Api, engine_room: Parts, eventually: Eventually) -> None:
    client = api.client("operator", "operator")
    reports = []
    first = client.post("/tasks", json={"kind": "platform.ping", "params": {}}).headers["location"]
    assert client.get(first, params={"wait": 60}).json()["done"]
    for _ in range(6):
        # The last one still runs when the database is verified, however quick the worker is.
        batch = [{"kind": "platform.ping", "params": {"sleep_ms": 1500 if n == 59 else n % 30}} for n in range(60)]
        submitted = client.post("/tasks/batch", json={"tasks": batch}).json()
        client.post("/files", files={"file": ("a.txt", b"hello " * 1000)})
        for task in submitted["tasks"][::7]:
            client.post(f"/tasks/{task['id']}/cancel")
        reports.append(verify(api.settings))

    assert [report.describe() for report in reports] == [""] * 6
    assert any(report.tasks.get("running") for report in reports)
    eventually(lambda: set(verify(api.settings).tasks) <= {"succeeded", "cancelled"})
    assert verify(api.settings, deep=True).sound
