"""`files`, `reports` and `email`: how many tasks of each family are done in a second."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from taskmill_bench.processes import ROOT, BenchFailed, python_module
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill

from cli.local_stack.free_ports import choose_port

MEBIBYTE = 1 << 20
JSON = {"Content-Type": "application/json"}
PICTURE = ROOT / "cli" / "demo" / "data" / "rocket.jpg"
VARIANTS = [
    {"name": "large", "width": 512, "format": "jpeg"},
    {"name": "medium", "width": 256, "format": "webp"},
    {"name": "small", "width": 96, "height": 96, "fit": "cover", "format": "png"},
]
REPORT_QUERY = "SELECT id, name, amount, amount * 2 AS twice FROM orders ORDER BY id"


def follow(system: Taskmill, task: dict[str, Any]) -> dict[str, Any]:
    """Wait until a task has succeeded and return it. Raises `BenchFailed` when it ends otherwise."""
    deadline = time.monotonic() + 300
    while not task["done"]:
        if time.monotonic() > deadline:
            raise BenchFailed(f"a task of {task['kind']} has not ended within 300 s")
        _, task = system.call("GET", f"/tasks/{task['id']}?wait=60")
    if task["status"] != "succeeded":
        raise BenchFailed(f"a task of {task['kind']} ended as {task['status']}: {task['error']}")
    return task


def post(system: Taskmill, path: str, body: object) -> dict[str, Any]:
    """Submit a task and return it."""
    _, task = system.call("POST", path, json.dumps(body).encode(), **JSON)
    system.sent += 1
    return dict(task)


def measure_files(system: System, options: Options) -> Measures:
    """Measure tasks that make three images of an upload, and the upload of a file that is larger than memory allows."""
    assert isinstance(system, Taskmill)
    system.start(workers=True)
    order = {"kind": "files.make_images", "params": {"variants": VARIANTS}}
    first = follow(system, system.upload("rocket.jpg", PICTURE.read_bytes(), order))
    tasks = max(4, int(options.seconds * 8))
    body = {"kind": "files.make_images", "params": {"file_id": first["params"]["file_id"], "variants": VARIANTS}}
    watch = system.watch()
    sending = system.send_requests([system.post("/tasks", body)], tasks, tasks, connections=4)
    ended = system.wait_until_drained()
    usage = watch.stop()
    system.require_all_succeeded()
    seconds = ended - sending.began
    mebibytes = max(4, min(256, int(options.seconds * 32)))
    content = b"The quick brown fox jumps over the lazy dog.\n" * (mebibytes * MEBIBYTE // 45)
    watch, began = system.watch(), time.monotonic()
    system.upload("fox.txt", content)
    uploaded, upload_usage = time.monotonic() - began, watch.stop()
    return {
        "pictures_per_second": tasks * len(VARIANTS) / seconds,
        "tasks_per_second": tasks / seconds,
        "cpu_ms_per_task": usage.total_seconds / tasks * 1000,
        "upload_mib_per_second": len(content) / MEBIBYTE / uploaded,
        "upload_cpu_ms_per_mib": upload_usage.seconds["api"] / (len(content) / MEBIBYTE) * 1000,
        "upload_mib": len(content) / MEBIBYTE,
    }


def measure_reports(system: System, options: Options) -> Measures:
    """Measure reports over an uploaded CSV, one after another, in rows per second from submission to the end."""
    assert isinstance(system, Taskmill)
    system.queues = "files,reports"
    system.start(workers=True)
    measures: Measures = {}
    for format_name, rows in (("csv", int(options.seconds * 50_000)), ("xlsx", int(options.seconds * 5_000))):
        lines = (f"{number},customer {number % 997},{number % 1000 / 8}\n" for number in range(rows))
        table = "id,name,amount\n" + "".join(lines)
        upload = follow(system, system.upload("orders.csv", table.encode()))
        sources = [{"name": "orders", "file_id": upload["params"]["file_id"]}]
        body = {"sources": sources, "query": REPORT_QUERY, "formats": [format_name]}
        watch, began = system.watch(), time.monotonic()
        follow(system, post(system, "/reports", body))
        took, usage = time.monotonic() - began, watch.stop()
        measures[f"{format_name}_rows"] = float(rows)
        measures[f"{format_name}_rows_per_second"] = rows / took
        measures[f"{format_name}_cpu_us_per_row"] = usage.total_seconds / rows * 1e6
    return measures


def measure_email(system: System, options: Options) -> Measures:
    """Measure messages with one recipient, to a mail sink that stores each on disk before it replies."""
    assert isinstance(system, Taskmill)
    port = choose_port()
    folder = Path(system.servers.folder) / "mail"
    folder.mkdir(exist_ok=True)
    system.queues = "email,files"
    system.more_settings["TASKMILL_SMTP_URL"] = f"smtp://127.0.0.1:{port}"
    arguments = ["--directory", folder, "--smtp-port", port, "--page-port", choose_port()]
    sink = system.start_part("sink", [*python_module("cli.local_stack.mail_sink"), *arguments])
    sink.wait_for_port(port)
    system.start(workers=True)
    message = {"to": ["ana@example.com"], "subject": "Hello", "text": "Hello Ana,\n\nall is well.\n"}
    follow(system, post(system, "/emails", message))
    kept = count_files(folder)
    mails = max(20, int(options.seconds * 40))
    watch = system.watch()
    sending = system.send_requests([system.post("/emails", message)], mails, mails)
    ended = system.wait_until_drained()
    usage = watch.stop()
    system.require_all_succeeded()
    if count_files(folder) - kept != mails:
        raise BenchFailed(f"of {mails} mails the sink has {count_files(folder) - kept}")
    return {
        "per_second": mails / (ended - sending.began),
        "cpu_us": usage.total_seconds / mails * 1e6,
        "write_transactions": usage.write_transactions / mails,
        "mails": float(mails),
    }


def count_files(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.eml"))


FILES = Part("files", "three pictures of rocket.jpg from each task; an upload", ("taskmill",), measure_files)
REPORTS = Part("reports", "a report as CSV and as XLSX over an uploaded CSV", ("taskmill",), measure_reports)
EMAIL = Part("email", "messages to a sink that keeps each on disk", ("taskmill",), measure_email)
