"""Submits real tasks of every family, batches and workflows at a rate.

Clients that get no answer repeat the request with the same key.
"""

from __future__ import annotations

import http.client
import json
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cli.chaos.listeners import Listeners
from cli.chaos.workflows import Workflow, make_workflows

_DATA: Final = Path(__file__).resolve().parents[1] / "demo" / "data"
_CLIENTS: Final = 16
TRY_SECONDS: Final = 45.0
"""How long a client repeats a request before it counts as given up."""
ANSWER_SECONDS: Final = 10.0
"""How long a client waits for an answer."""
SLOW_SECONDS: Final = 1.0
_LISTEN_EACH: Final = 10
"""Of how many accepted tasks one is listened to."""
SLOT_SECONDS: Final = 2
_MIX: Final = {
    "ping": 46,
    "email": 15,
    "inspect": 8,
    "images": 5,
    "report": 4,
    "text": 2,
    "batch": 3,
    "workflow": 6,
    "limited": 8,
}
_BATCH_TASKS: Final = 3
_LIMITED_KEYS: Final = {"one": 1, "two": 2}
"""How many tasks of each key may run at once."""
_REPORTED_TAG: Final = "reported"
"""The tag of the tasks whose ends are sent to the webhook receiver."""
Headers = dict[str, str]


class Workload:
    """Submits tasks until `stop` is called. `accepted` has the kind of work of each task that was answered with 202."""

    def __init__(
        self, api_url: str, api_key: str, rate: float, seed: int, find_api_pid: Callable[[], int | None]
    ) -> None:
        parts = urlsplit(api_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._key = api_key
        self._find_api_pid = find_api_pid
        self._rate = rate
        self._chance = random.Random(seed)  # noqa: S311 - nothing is secret.
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self._table: str | None = None
        self._shapes: list[Workflow] = []
        self.listeners = Listeners(self._host, self._port, api_key)
        self.accepted: dict[str, str] = {}
        self.recipients: dict[str, str] = {}
        """The recipient of each email, by task id. Each recipient gets one."""
        self.workflows: dict[str, Workflow] = {}
        """How each workflow must end, by its id."""
        self.batches: dict[str, str] = {}
        """The tag of the `on_finished` of each batch, by the id of the batch."""
        self.reported: set[str] = set()
        """The tasks whose ends are sent to the webhook receiver."""
        self.answers: Counter[str] = Counter()
        """The number of answers by status, and of requests without an answer as `no answer`."""
        self.given_up = 0
        self.wrong: list[str] = []
        """Answers with an unexpected status, which no fault explains."""
        self.failed: list[str] = []
        """Errors of the clients themselves, after which nothing was checked."""
        self.slowest_health_seconds = 0.0
        self.slow_health = 0
        self.wrong_health: Counter[int] = Counter()
        """The number of answers of `/health` other than 200, by status."""

    def start(self) -> None:
        """Start to submit."""
        self._table = self._upload("penguins.csv", "text/csv")
        image = self._upload("rocket.jpg", "image/jpeg")
        assert self._table is not None and image is not None, f"a file was not stored: {self.wrong}"
        self._shapes = list(make_workflows(image).values())
        self._thread.start()
        threading.Thread(target=self.note_failure, args=[self._watch_health], name="health", daemon=True).start()

    def create_schedule(self, seconds: float) -> tuple[str, list[datetime]]:
        """Create a schedule that runs for so many seconds; return its id and the slots that must each get one task."""
        begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=SLOT_SECONDS)
        slots = [begin + timedelta(seconds=after) for after in range(0, max(1, int(seconds)), SLOT_SECONDS)]
        body = {
            "name": "chaos",
            "kind": "platform.ping",
            "params": {},
            "every": SLOT_SECONDS,
            "missed": "run_all",
            "starts_at": slots[0].isoformat(),
            "ends_at": slots[-1].isoformat(),
        }
        return str(self._create("/schedules", body)["id"]), slots

    def create_endpoint(self, url: str) -> str:
        """Create an endpoint for the ends of batches, of workflows and of tagged tasks; return its secret."""
        types = ["task.succeeded", "task.failed", "batch.finished", "workflow.finished"]
        body = {"url": url, "event_types": types, "tags": [_REPORTED_TAG]}
        return str(self._create("/webhook-endpoints", body)["secret"])

    def _create(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        status, answer = self._request("POST", path, json.dumps(body).encode(), headers)
        assert status == 201, f"POST {path} was answered with {status}: {answer.decode(errors='replace')}"
        return json.loads(answer)

    def stop(self) -> None:
        """Stop submitting, and wait for requests that are under way."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(_CLIENTS) as clients:
            due = time.monotonic()
            while not self._stopping.is_set():
                clients.submit(self.note_failure, self._choose())
                due += 1 / self._rate
                self._stopping.wait(max(0.0, due - time.monotonic()))

    def _choose(self) -> Callable[[], object]:
        name = self._chance.choices(list(_MIX), list(_MIX.values()))[0]
        if name == "email":
            address = f"{secrets.token_hex(6)}@example.com"
            body = {"to": [address], "subject": "Chaos", "text": "A message."}
            return lambda: self._submit_email(body, address)
        if name == "ping":
            queue = self._chance.choice(["files", "reports", "email"])
            params = {"sleep_ms": self._chance.choice([0, 0, 5, 50, 500, 3000]), "queue": queue}
            tags = self._chance.choice([[], [], [], [], [_REPORTED_TAG]])
            return lambda: self._submit_ping({"kind": "platform.ping", "params": params, "tags": tags})
        if name == "limited":
            limited = self._make_limited_ping()
            return lambda: self._submit_task("/tasks", *_json(limited), "limited")
        if name == "batch":
            return self._submit_batch
        if name == "workflow":
            workflow = self._chance.choice(self._shapes)
            return lambda: self._submit_workflow(workflow)
        if name == "report":
            source: dict[str, Any] = {"name": "penguins", "file_id": self._table}
            query = "SELECT species, count(*) AS n FROM penguins GROUP BY species ORDER BY species"
            report: dict[str, Any] = {"title": "Chaos", "sources": [source], "query": query, "formats": ["csv", "xlsx"]}
            return lambda: self._submit_task("/reports", *_json(report), "report")
        form = {
            "inspect": ("rocket.jpg", "image/jpeg", None),
            "images": (
                "rocket.jpg",
                "image/jpeg",
                {"kind": "files.make_images", "params": {"variants": [{"name": "s", "width": 64, "format": "jpeg"}]}},
            ),
            "text": ("latex-news.pdf", "application/pdf", {"kind": "files.extract_text", "params": {}}),
        }[name]
        return lambda: self._submit_task("/files", *self._file(*form), name)

    def _make_limited_ping(self) -> dict[str, Any]:
        """Return a task of a key that limits how many run at once, and how many start in a second."""
        key = self._chance.choice(list(_LIMITED_KEYS))
        queue = self._chance.choice(["files", "reports", "email"])
        return {
            "kind": "platform.ping",
            "params": {"sleep_ms": self._chance.choice([5, 200, 600]), "queue": queue},
            "concurrency": {"key": key, "limit": _LIMITED_KEYS[key]},
            "rate": {"key": key, "limit": 4, "period_seconds": 1},
            "max_attempts": 25,
        }

    def note_failure(self, work: Callable[[], object]) -> None:
        """Do the work, and keep an error of it."""
        try:
            work()
        except Exception as error:
            with self._lock:
                self.failed.append(repr(error))

    def _upload(self, name: str, media_type: str) -> str | None:
        """Store a file, and return its id."""
        task = self._submit_task("/files", *self._file(name, media_type, None), "upload")
        return None if task is None else str(task["params"]["file_id"])

    def _submit_email(self, body: dict[str, Any], address: str) -> None:
        if (task := self._submit_task("/emails", *_json(body), "email")) is not None:
            with self._lock:
                self.recipients[task["id"]] = address

    def _submit_ping(self, body: dict[str, Any]) -> None:
        task = self._submit_task("/tasks", *_json(body), "ping")
        if task is not None and body["tags"]:
            with self._lock:
                self.reported.add(task["id"])

    def _submit_batch(self) -> None:
        ping: dict[str, Any] = {"kind": "platform.ping", "params": {"sleep_ms": 50}}
        tag = f"after-{secrets.token_hex(6)}"
        body = {"tasks": [ping] * _BATCH_TASKS, "on_finished": {**ping, "tags": [tag], "max_attempts": 25}}
        if (batch := self._submit("/tasks/batch", *_json(body))) is not None:
            for task in batch["tasks"]:
                self._note_task(task["id"], "batch")
            with self._lock:
                self.batches[batch["batch_id"]] = tag

    def _submit_workflow(self, workflow: Workflow) -> None:
        if (answer := self._submit("/workflows", *_json({"steps": workflow.steps}))) is not None:
            with self._lock:
                self.workflows[answer["id"]] = workflow

    def _submit_task(self, path: str, body: bytes, content_type: str, work: str) -> Any:
        """Submit a task, and return it, or None without success."""
        if (task := self._submit(path, body, content_type)) is not None:
            self._note_task(task["id"], work)
        return task

    def _note_task(self, task_id: str, work: str) -> None:
        with self._lock:
            self.accepted[task_id] = work
            if len(self.accepted) % _LISTEN_EACH == 1:
                self.listeners.listen(task_id)

    @staticmethod
    def _file(name: str, media_type: str, task: dict[str, Any] | None) -> tuple[bytes, str]:
        boundary = secrets.token_hex(16)
        head = ""
        if task is not None:
            head += f'--{boundary}\r\nContent-Disposition: form-data; name="task"\r\n'
            head += f"Content-Type: application/json\r\n\r\n{json.dumps(task)}\r\n"
        head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        head += f"Content-Type: {media_type}\r\n\r\n"
        body = head.encode() + (_DATA / name).read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        return body, f"multipart/form-data; boundary={boundary}"

    def _submit(self, path: str, body: bytes, content_type: str) -> Any:
        """Submit with a new idempotency key until there is an answer. Return its content, or None without success."""
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": content_type,
            "Idempotency-Key": secrets.token_hex(12),
        }
        deadline = time.monotonic() + TRY_SECONDS
        while time.monotonic() < deadline:
            try:
                status, answer = self._request("POST", path, body, headers)
            except (OSError, http.client.HTTPException):
                self._count("no answer")
                time.sleep(0.2)
                continue
            self._count(str(status))
            if status == 202:
                return json.loads(answer)
            if status not in {409, 429, 503}:
                with self._lock:
                    self.wrong.append(f"{path}: {status}: {answer[:300].decode(errors='replace')}")
                return None
            time.sleep(0.5)
        with self._lock:
            self.given_up += 1
        return None

    def _request(self, method: str, path: str, body: bytes | None, headers: Headers) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _count(self, answer: str) -> None:
        with self._lock:
            self.answers[answer] += 1

    def _watch_health(self) -> None:
        while not self._stopping.wait(0.25):
            self.check_health()

    def check_health(self) -> None:
        """Request `/health` and measure the answer. A process that was killed meanwhile is not counted."""
        pid_before = self._find_api_pid()
        began = time.monotonic()
        try:
            status, _ = self._request("GET", "/health", None, {})
        except TimeoutError:
            # Only a process that ran all the time is counted.
            if pid_before is None or pid_before != self._find_api_pid():
                return
        except (OSError, http.client.HTTPException):
            return
        else:
            self.wrong_health[status] += status != 200
        seconds = time.monotonic() - began
        self.slowest_health_seconds = max(self.slowest_health_seconds, seconds)
        self.slow_health += seconds > SLOW_SECONDS


def _json(body: object) -> tuple[bytes, str]:
    return json.dumps(body).encode(), "application/json"
