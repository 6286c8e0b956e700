"""Submits real tasks of every family at a rate. Clients that get no answer repeat the request with the same key."""

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
_MIX: Final = {"ping": 60, "email": 18, "inspect": 10, "images": 6, "report": 4, "text": 2}
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
        self.listeners = Listeners(self._host, self._port, api_key)
        self.accepted: dict[str, str] = {}
        self.recipients: dict[str, str] = {}
        """The recipient of each email, by task id. Each recipient gets one."""
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
        self._table = self._submit("/files", *self._file("penguins.csv", "text/csv", None), "upload")
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
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        status, answer = self._request("POST", "/schedules", json.dumps(body).encode(), headers)
        assert status == 201, f"the schedule was not created: {status}: {answer.decode(errors='replace')}"
        return str(json.loads(answer)["id"]), slots

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
            return lambda: self._note_recipient(self._submit("/emails", *_json(body), "email"), address)
        if name == "ping":
            queue = self._chance.choice(["files", "reports", "email"])
            params = {"sleep_ms": self._chance.choice([0, 0, 5, 50, 500, 3000]), "queue": queue}
            return lambda: self._submit("/tasks", *_json({"kind": "platform.ping", "params": params}), "ping")
        if name == "report":
            source: dict[str, Any] = {"name": "penguins", "file_id": self._table}
            query = "SELECT species, count(*) AS n FROM penguins GROUP BY species ORDER BY species"
            report: dict[str, Any] = {"title": "Chaos", "sources": [source], "query": query, "formats": ["csv", "xlsx"]}
            return lambda: self._submit("/reports", *_json(report), "report")
        form = {
            "inspect": ("rocket.jpg", "image/jpeg", None),
            "images": (
                "rocket.jpg",
                "image/jpeg",
                {"kind": "files.make_images", "params": {"variants": [{"name": "s", "width": 64, "format": "jpeg"}]}},
            ),
            "text": ("latex-news.pdf", "application/pdf", {"kind": "files.extract_text", "params": {}}),
        }[name]
        return lambda: self._submit("/files", *self._file(*form), name)

    def note_failure(self, work: Callable[[], object]) -> None:
        """Do the work, and keep an error of it."""
        try:
            work()
        except Exception as error:
            with self._lock:
                self.failed.append(repr(error))

    def _note_recipient(self, task_id: str | None, address: str) -> None:
        if task_id is not None:
            with self._lock:
                self.recipients[task_id] = address

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

    def _submit(self, path: str, body: bytes, content_type: str, work: str) -> str | None:
        """Submit with a new idempotency key until there is an answer. Return the id of the task, or for an upload of the file."""
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
                task = json.loads(answer)
                with self._lock:
                    self.accepted[task["id"]] = work
                    if len(self.accepted) % _LISTEN_EACH == 1:
                        self.listeners.listen(task["id"])
                return str(task["params"]["file_id"] if work == "upload" else task["id"])
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
