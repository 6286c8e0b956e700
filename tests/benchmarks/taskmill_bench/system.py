"""The interface of a measured system: Taskmill or a peer."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from pydantic import JsonValue
from taskmill_bench.measuring import processor_seconds
from taskmill_bench.processes import BenchFailed, Client, Server, python_module, wait_for
from taskmill_bench.servers import Servers

from cli.local_stack.free_ports import choose_port

CONNECTIONS = 16
DRAIN_LIMIT_SECONDS = 300.0
WARM_UP_TASKS = 40
WARM_UP_LIMIT_SECONDS = 90.0


@dataclasses.dataclass(frozen=True)
class Sending:
    """The cost of submitting many tasks. `began` is a time of `time.monotonic`; `cpu_seconds` is that of the client library."""

    began: float
    seconds: float
    cpu_seconds: float


@dataclasses.dataclass(frozen=True)
class Usage:
    """What was used between two readings: processor time by part, and the difference of the counters of the servers."""

    seconds: dict[str, float]
    broker_commands: int
    write_transactions: int
    wal_bytes: int

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def cpu_us_by_part(self, count: int) -> dict[str, float]:
        """Return the microseconds for each request or task, by part."""
        return {part: seconds / count * 1e6 for part, seconds in self.seconds.items()}


class System(ABC):
    """A system with its own database and broker, from `start` to `stop`.

    `size` is the share of a drain's tasks that it is given: what is compared is a rate, and a slow one would take
    minutes for all of them. `title` says what of it runs.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    size: ClassVar[float] = 1.0

    def __init__(self, servers: Servers, folder: Path) -> None:
        self.servers = servers
        self.database_url = ""
        self.sent = 0
        self.worker_processes = 2
        self._folder = folder
        self._parts: dict[str, list[Server]] = {}
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    # What each system defines.

    def environment(self) -> dict[str, str]:
        urls = {"BENCH_BROKER_URL": self.servers.broker_url, "BENCH_DATABASE_URL": self.database_url}
        # What a process leaves that is killed goes with the bench's own folder.
        return {**urls, "TMPDIR": str(self._folder)}

    def make_database(self) -> str:
        """Create the database of the system as a new user would have it, and return its URL."""
        return self.servers.create_database(f"bench_{self.name}")

    def start_front(self) -> None:  # noqa: B027 (a system without HTTP has no front to start)
        """Start the process that accepts submissions. A system without HTTP has none."""

    @abstractmethod
    def start_workers(self) -> None:
        """Start `worker_processes` workers."""

    @abstractmethod
    def is_drained(self) -> bool:
        """Return whether every submitted task is done, according to the system itself."""

    @abstractmethod
    def send_many(self, count: int) -> Sending:
        """Submit tasks as fast as the usual client of the system does."""

    @abstractmethod
    def measure_latency(self, count: int, idle_seconds: float) -> list[float]:
        """Return the seconds from submitting a task to seeing its end with the usual client, one task at a time."""

    # What is the same for all.

    def start(self, *, workers: bool) -> None:
        """Start the system with an empty broker and a new database. With workers, wait until they have done a task."""
        self.servers.clear_broker()
        self.database_url = self.make_database()
        self.servers.checkpoint()
        self.start_front()
        if workers:
            self.start_workers()
            self.warm_up()

    def warm_up(self) -> None:
        """Run tasks until everything that happens only once has happened."""
        for _ in range(2):
            self.send_many(WARM_UP_TASKS)
            self.wait_until_drained(WARM_UP_LIMIT_SECONDS)

    def wait_until_drained(self, limit_seconds: float = DRAIN_LIMIT_SECONDS) -> float:
        """Wait until all tasks are done and return the time (of `time.monotonic`)."""
        return wait_for(self.is_drained, limit_seconds, f"the tasks of {self.name}")

    def stop(self) -> None:
        """Kill all processes of the system, as nothing that they hold is needed any more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for part in list(self._parts):
            self.stop_part(part)

    def start_part(self, part: str, argv: list[Any], **more: str) -> Server:
        """Start a process and count its usage for a part of the system."""
        server = Server(argv, {**self.environment(), **more}, self._folder / f"{self.name}.log")
        self._parts.setdefault(part, []).append(server)
        return server

    def read_log_end(self) -> str:
        """Return the ends of the logs of all processes."""
        log = self._folder / f"{self.name}.log"
        return log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""

    def stop_part(self, part: str) -> None:
        for server in self._parts.pop(part, []):
            server.kill()

    def pids(self, part: str) -> list[int]:
        return [server.pid for server in self._parts.get(part, [])]

    def watch(self) -> Watch:
        """Start to count what the system and its servers use."""
        return Watch(self)

    def query(self, statement: str, parameters: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """Return the first row of the result of a query on the database of the system."""
        if self._connection is None:
            self._connection = psycopg.connect(self.database_url, autocommit=True)
        row = self._connection.execute(statement, parameters).fetchone()  # type: ignore[call-overload]
        assert row is not None
        return tuple(row)


class Watch:
    """Counts what a system and its servers use, from its creation on."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._counters = system.servers.count()
        self._seconds = self._read()

    def stop(self) -> Usage:
        """Return what was used since the creation."""
        seconds = self._read()
        counters = self._system.servers.count()
        before = self._counters
        return Usage(
            {part: seconds[part] - self._seconds.get(part, 0.0) for part in seconds},
            counters.broker_commands - before.broker_commands,
            counters.write_transactions - before.write_transactions,
            counters.wal_bytes - before.wal_bytes,
        )

    def _read(self) -> dict[str, float]:
        system, servers = self._system, self._system.servers
        parts = {part: processor_seconds(system.pids(part)) for part in ("api", "relay", "worker") if system.pids(part)}
        parts["broker"] = processor_seconds([servers.broker_pid])
        parts["postgres"] = processor_seconds([servers.postgres_pid])
        return parts


class HttpSystem(System):
    """A system that is used over HTTP."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self.port = 0

    @abstractmethod
    def submit_request(self) -> dict[str, Any]: ...

    @abstractmethod
    def poll_request(self, task_id: str) -> dict[str, Any]: ...

    def follow_request(self) -> dict[str, Any]:
        """Return the path that a client polls to see the end of a task soon, with `{id}` for the id of the task."""
        return self.poll_request("{id}")

    def choose_port(self) -> int:
        self.port = choose_port()
        return self.port

    def load(self, requests: list[dict[str, Any]], **order: JsonValue) -> dict[str, Any]:
        """Load the system from another process and return the result. `http_load` describes orders. Raises `BenchFailed`."""
        client = self.connect(requests, mode="load", **order)
        return client.go((order.get("seconds") or order["limit_seconds"]) + 60)

    def connect(self, requests: list[dict[str, Any]], **order: JsonValue) -> Client:
        """Return a client process that is connected and waits for `go`."""
        whole = {"host": "127.0.0.1", "port": self.port, "requests": requests, "connections": CONNECTIONS, **order}
        return Client(python_module("taskmill_bench.http_load"), whole, {})

    def send_many(self, count: int) -> Sending:
        return self.send_requests([self.submit_request()], count, count, CONNECTIONS)

    def send_requests(
        self, requests: list[dict[str, Any]], count: int, tasks: int, connections: int = CONNECTIONS
    ) -> Sending:
        """Send requests that submit a number of tasks together. Raises `BenchFailed` if one is refused."""
        order = {"count": count, "connections": min(connections, count), "limit_seconds": DRAIN_LIMIT_SECONDS}
        client = self.connect(requests, mode="load", **order)
        began = time.monotonic()
        answer = client.go(DRAIN_LIMIT_SECONDS + 60)
        require_no_errors(self.name, answer)
        self.sent += tasks
        # The load's processor time is no one's: any client could have sent these.
        return Sending(began, answer["seconds"], 0.0)

    def measure_latency(self, count: int, idle_seconds: float) -> list[float]:
        client = self.connect(
            [self.submit_request()],
            mode="latency",
            follow=self.follow_request(),
            done=["SUCCESS", "succeeded"],
            count=count,
            pause_seconds=0.001,
            idle_seconds=idle_seconds,
        )
        answer = client.go(60 + count)
        self.sent += count
        return list(answer["latencies"])


class ClientSystem(System):
    """A system without HTTP. Its client library submits in another process, which counts as part of the system."""

    @abstractmethod
    def client_command(self) -> list[Any]: ...

    def send_many(self, count: int) -> Sending:
        client = Client(self.client_command(), {"mode": "send", "count": count}, self.environment())
        began = time.monotonic()
        answer = client.go(DRAIN_LIMIT_SECONDS)
        self.sent += count
        return Sending(began, answer["seconds"], answer["cpu_seconds"])

    def measure_latency(self, count: int, idle_seconds: float) -> list[float]:
        order = {"mode": "latency", "count": count, "idle_seconds": idle_seconds}
        answer = Client(self.client_command(), order, self.environment()).go(60 + count)
        return list(answer["latencies"])


def require_no_errors(name: str, answer: Mapping[str, Any]) -> None:
    """Raise `BenchFailed` if the responses to a load are not as expected."""
    if answer["errors"]:
        raise BenchFailed(f"{name} refused {answer['errors']} of {answer['requests']} requests: {answer['sample']}")
