"""The peers: other systems for background work, each set up as its own documentation shows first."""

from __future__ import annotations

import json
from typing import Any

import redis
from taskmill_bench.peer_environment import NODE_MODULES, PEER_PYTHON
from taskmill_bench.processes import BENCHMARKS, python_module, run_to_end
from taskmill_bench.system import ClientSystem, HttpSystem

PEERS = BENCHMARKS / "peers"
PAYLOAD = {"hello": "world"}


class Naive(HttpSystem):
    """The system of a tutorial: an endpoint that calls `.delay()`, and polling of `AsyncResult`."""

    name = "naive"
    title = "FastAPI, Celery prefork, Redis results; no row"
    size = 0.4
    module = "naive_app"

    def start_front(self) -> None:
        options = ["--port", self.choose_port(), "--log-level", "warning", "--no-access-log"]
        self.start_part("api", [*python_module("uvicorn"), f"{self.module}:app", *options]).wait_for_port(self.port)

    def start_workers(self) -> None:
        self.start_part("worker", celery_worker(f"{self.module}:celery", self.worker_processes))

    def submit_request(self) -> dict[str, Any]:
        return {"method": "POST", "path": "/tasks", "body": json.dumps({"kind": "noop", "payload": PAYLOAD})}

    def poll_request(self, task_id: str) -> dict[str, Any]:
        return {"method": "GET", "path": f"/tasks/{task_id}"}

    def is_drained(self) -> bool:
        return is_celery_idle(self.servers.redis) and count_results(self.servers.redis) >= self.sent


class NaivePg(Naive):
    """The same with a row for each task, through SQLAlchemy, and no result backend."""

    name = "naive_pg"
    title = "the same and a row, SQLAlchemy"
    size = 0.15
    module = "naive_pg_app"

    def make_database(self) -> str:
        url = super().make_database()
        run_to_end([*python_module("naive_pg_app")], {**self.environment(), "BENCH_DATABASE_URL": url})
        return url

    def is_drained(self) -> bool:
        if not is_celery_idle(self.servers.redis):
            return False
        return self.query("SELECT count(*) FROM jobs WHERE status = 'succeeded'")[0] >= self.sent


class Celery(ClientSystem):
    """Celery alone, results ignored."""

    name = "celery"
    title = "Celery prefork, `.delay()` from one process; no HTTP, no row"
    size = 0.4

    def client_command(self) -> list[Any]:
        return python_module("celery_client")

    def start_workers(self) -> None:
        self.start_part("worker", celery_worker("celery_client:app", self.worker_processes))

    def is_drained(self) -> bool:
        return is_celery_idle(self.servers.redis)


class Procrastinate(ClientSystem):
    """A queue in Postgres, with LISTEN and NOTIFY."""

    name = "procrastinate"
    title = "workers of 10 coroutines, a client with 16 in flight; a row, no HTTP"
    size = 0.2

    def client_command(self) -> list[Any]:
        return [PEER_PYTHON, "-m", "procrastinate_client"]

    def make_database(self) -> str:
        url = super().make_database()
        command = [PEER_PYTHON, "-m", "procrastinate", "--app=procrastinate_client.app", "schema", "--apply"]
        run_to_end(command, {**self.environment(), "BENCH_DATABASE_URL": url})
        return url

    def start_workers(self) -> None:
        command = [PEER_PYTHON, "-m", "procrastinate", "--app=procrastinate_client.app", "worker", "--concurrency=10"]
        for _ in range(self.worker_processes):
            self.start_part("worker", command)

    def is_drained(self) -> bool:
        return not self.query("SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))")[0]


class Dramatiq(ClientSystem):
    """Messages in Redis, acknowledged after the work."""

    name = "dramatiq"
    title = "workers of 8 threads, `.send()` from one process; no HTTP, no row"

    def client_command(self) -> list[Any]:
        return [PEER_PYTHON, "-m", "dramatiq_client"]

    def start_workers(self) -> None:
        options = ["--processes", str(self.worker_processes), "--threads", "8"]
        self.start_part("worker", [PEER_PYTHON, "-m", "dramatiq", "dramatiq_client", *options])

    def is_drained(self) -> bool:
        # A message stays among these until it is acknowledged.
        return self.servers.redis.hlen("dramatiq:default.msgs") == 0


class BullMq(ClientSystem):
    """BullMQ, a widely used queue for Node, on Redis."""

    name = "bullmq"
    title = "Node, workers of 25 promises, a client with 16 in flight; no HTTP, no row"

    def client_command(self) -> list[Any]:
        return ["node", PEERS / "bullmq.cjs", NODE_MODULES, "client"]

    def start_workers(self) -> None:
        for _ in range(self.worker_processes):
            self.start_part("worker", ["node", str(PEERS / "bullmq.cjs"), str(NODE_MODULES), "worker"])

    def is_drained(self) -> bool:
        client = self.servers.redis
        waiting = client.llen("bull:bench:wait") + client.llen("bull:bench:active")
        return waiting == 0 and client.zcard("bull:bench:completed") >= self.sent


def celery_worker(app: str, processes: int) -> list[str]:
    """Return the command of a Celery worker with a pool of processes and defaults for all else."""
    return [*python_module("celery"), "--app", app, "worker", "--loglevel", "WARNING", "--concurrency", str(processes)]


def is_celery_idle(client: redis.Redis) -> bool:
    """Return whether nothing is queued and every message is acknowledged."""
    return bool(client.llen("celery") == 0 and client.hlen("unacked") == 0)


def count_results(client: redis.Redis) -> int:
    """Return how many results Celery stores: all keys, except the few of its own bookkeeping."""
    bookkeeping = sum(1 for name in ("unacked", "unacked_index", "unacked_mutex", "celery") if client.exists(name))
    bindings = sum(1 for _ in ("celery", "celeryev", "celery.pidbox") if client.exists(f"_kombu.binding.{_}"))
    return int(client.dbsize()) - bookkeeping - bindings
