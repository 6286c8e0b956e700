"""`drain`, `latency` and `workers`: tasks from their submission to their end."""

from __future__ import annotations

from taskmill_bench.measuring import percentile
from taskmill_bench.processes import wait_for
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill

LEAST_DRAIN_TASKS = 50
IDLE_SECONDS = 0.01
"""The pause between one task and the next, so that the system is idle when each begins."""
FIRST_LATENCIES = 3
"""So many are not counted: they open connections."""
SLEEP_MS = 100
LONGER = 4
"""So many times as long as others `workers` lasts: the last round, in which some find nothing to do, weighs less."""
START_LIMIT_SECONDS = 120.0


def measure_drain(system: System, options: Options) -> Measures:
    """Submit tasks while workers run; count until the last has ended by the system's own record."""
    system.start(workers=True)
    count = max(LEAST_DRAIN_TASKS, int(options.tasks * system.size))
    watch = system.watch()
    sending = system.send_many(count)
    ended = system.wait_until_drained()
    usage = watch.stop()
    if isinstance(system, Taskmill):
        system.require_all_succeeded()
    seconds = ended - sending.began
    return {
        "per_second": count / seconds,
        "submitted_per_second": count / sending.seconds,
        "cpu_us": (usage.total_seconds + sending.cpu_seconds) / count * 1e6,
        "broker_commands": usage.broker_commands / count,
        "write_transactions": usage.write_transactions / count,
        "wal_bytes": usage.wal_bytes / count,
        "tasks": float(count),
        **{f"cpu_us.{part}": value for part, value in usage.cpu_us_by_part(count).items()},
    }


def measure_latency(system: System, options: Options) -> Measures:
    """Measure tasks that are submitted one at a time to an idle system."""
    system.start(workers=True)
    latencies = system.measure_latency(options.latency_tasks + FIRST_LATENCIES, IDLE_SECONDS)[FIRST_LATENCIES:]
    return {"p50_ms": percentile(latencies, 0.5) * 1000, "p99_ms": percentile(latencies, 0.99) * 1000}


def measure_workers(system: System, options: Options) -> Measures:
    """Tasks that sleep 100 ms, on more and more worker processes.

    Linear is what the threads of all processes could do at most: the share of it that was reached counts everything,
    also that the last tasks find some workers with nothing to do.
    """
    assert isinstance(system, Taskmill)
    system.worker_processes = 0
    system.start(workers=False)
    threads = system.make_settings("").worker_concurrency
    measures: Measures = {"threads": float(threads)}
    for processes in options.processes:
        while len(system.pids("worker")) < processes:
            system.start_worker()
        wait_until_all_work(system, processes, threads)
        rounds = max(1, round(LONGER * options.seconds * 1000 / SLEEP_MS))
        count = processes * threads * rounds
        last_id = system.query("SELECT coalesce(max(id::text), '') FROM tasks")[0]
        watch = system.watch()
        system.send_batches(count, sleep_ms=SLEEP_MS)
        system.wait_until_drained()
        usage = watch.stop()
        row = system.query(
            "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8, count(*) FROM tasks"
            " WHERE id::text > %(last)s AND status = 'succeeded'",
            {"last": last_id},
        )
        assert row[1] == count
        measures[f"linear_share_{processes}"] = rounds * SLEEP_MS / 1000 / row[0]
        measures[f"per_second_{processes}"] = count / row[0]
        measures[f"cpu_us_{processes}"] = usage.total_seconds / count * 1e6
    return measures


def wait_until_all_work(system: Taskmill, processes: int, threads: int) -> None:
    """Run a task in every thread first, so that the start of the slowest process is not measured."""

    def all_run() -> bool:
        running = system.query("SELECT count(*) FROM tasks WHERE status = 'running'")[0]
        return int(running) >= processes * threads

    # Long enough that none of these ends while the last of many processes is still starting.
    system.send_batches(processes * threads, sleep_ms=60_000)
    wait_for(all_run, START_LIMIT_SECONDS, f"{processes} workers to start", 0.1)
    ids = system.query("SELECT array_agg(id::text) FROM tasks WHERE status = 'running'")[0]
    for task_id in ids:
        system.call("POST", f"/tasks/{task_id}/cancel")
    system.wait_until_drained()


DRAIN_SYSTEMS = ("naive", "naive_pg", "celery", "procrastinate", "dramatiq", "bullmq", "taskmill", "taskmill_batch")
DRAIN = Part("drain", "pings from the first submission to the end of the last", DRAIN_SYSTEMS, measure_drain)
LATENCY = Part("latency", "one ping at a time, from submitting to seeing it done", DRAIN_SYSTEMS[:-1], measure_latency)
WORKERS = Part("workers", "pings that sleep 100 ms, on more and more worker processes", ("taskmill",), measure_workers)
