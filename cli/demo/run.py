"""`taskmill demo`: submits real files, a report and an email to a local stack, and checks every result."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.demo.checks import (
    CheckFailed,
    check_artifact,
    check_csv,
    check_image,
    check_mail,
    check_text,
    check_xlsx,
    compute_means,
)
from cli.demo.client import Client, RequestRefused, Task, TaskTooSlow
from cli.local_stack.server_process import ServerFailed
from cli.local_stack.stack import BUILT_IN_SERVERS, LocalStack

_DATA = Path(__file__).resolve().parent / "data"
_LIMIT_SECONDS = 120
_VARIANTS: list[dict[str, Any]] = [
    {"name": "thumbnail", "width": 160, "height": 160, "format": "jpeg"},
    {"name": "square", "width": 256, "height": 256, "fit": "cover", "format": "webp"},
    {"name": "screen", "width": 480, "format": "avif"},
    {"name": "card", "width": 400, "height": 400, "fit": "contain", "background": "#ffffff", "format": "png"},
]
# The photo has 640 x 427 pixels.
_SIZES = {"thumbnail": (160, 107), "square": (256, 256), "screen": (480, 320), "card": (400, 400)}
_PHRASES = ("Issue 30, October 2019", "TUGboat article", "newcolumntype")
_QUERY = """\
SELECT species, island, round(avg(body_mass_g), 1) AS mean_body_mass_g
FROM penguins
WHERE body_mass_g IS NOT NULL
GROUP BY species, island
ORDER BY species, island"""


@dataclass
class _Line:
    """One line of the table at the end: a task and what was found, or why there is no right result."""

    title: str
    bar: TaskID
    task: Task | None = None
    findings: list[str] = field(default_factory=list)
    fault: str | None = None


def run_demo(data_dir: Path | None, *, keep: bool) -> int:
    """Run the demo and return the exit code, which is 0 only if every result is right.

    Without a data directory a temporary one is used, and deleted at the end. With `keep`, the stack runs until Ctrl-C, and
    its data are kept.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    # The demo sends email to an invented address and submits invented work, so it never uses servers of the user.
    stack = LocalStack(data_dir, environment=BUILT_IN_SERVERS)
    with _terminated_as_interrupted():
        return _run(stack, console, throw_away=data_dir is None, keep=keep)


def _run(stack: LocalStack, console: Console, *, throw_away: bool, keep: bool) -> int:
    try:
        with console.status("Starting the local stack …"):
            stack.start()
    except ServerFailed as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    else:
        try:
            lines = _do_the_work(stack, console)
            _print_table(console, lines, with_urls=keep)
            is_right = all(line.fault is None for line in lines)
            if is_right:
                console.print("Every result is right.", style="bold green")
                if not keep:
                    _show_next_steps(console)
            else:
                console.print(f"Not every result is right. The log is {stack.log_path}", style="bold red")
            if keep:
                _run_until_interrupted(console, stack, lines)
            # After a failure, the log and the data are needed to find out why.
            throw_away &= is_right and not keep
            return 0 if is_right else 1
        except KeyboardInterrupt:
            return 130
    finally:
        stack.stop()
        if throw_away:
            stack.remove()


def _do_the_work(stack: LocalStack, console: Console) -> list[_Line]:
    ready = stack.ready
    client = Client(ready["api_url"], ready["api_key"])
    with (
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
        ) as progress,
        ThreadPoolExecutor(3) as pool,
    ):
        tasks = _DemoTasks(client, progress, Path(ready["mail_dir"]))
        started = [pool.submit(tasks.make_images), pool.submit(tasks.extract_text), pool.submit(tasks.report)]
        return [line for done in started for line in done.result()]


class _DemoTasks:
    """Submits the tasks of the demo, follows them, and checks their results."""

    def __init__(self, client: Client, progress: Progress, mail_dir: Path) -> None:
        self._client = client
        self._progress = progress
        self._mail_dir = mail_dir

    def make_images(self) -> list[_Line]:
        with self._task("rocket.jpg → images") as line:
            submitted = self._client.upload(
                _DATA / "rocket.jpg", "image/jpeg", "files.make_images", {"variants": _VARIANTS}
            )
            contents = self._finish(line, submitted)
            for variant in _VARIANTS:
                name = next((name for name in contents if name.partition(".")[0] == variant["name"]), None)
                if name is None:
                    raise CheckFailed(f"expected an artifact {variant['name']}, found {sorted(contents)}")
                found = check_image(contents[name], variant["format"], _SIZES[variant["name"]])
                line.findings.append(f"{name}: {found}")
        return [line]

    def extract_text(self) -> list[_Line]:
        with self._task("latex-news.pdf → text") as line:
            submitted = self._client.upload(_DATA / "latex-news.pdf", "application/pdf", "files.extract_text")
            contents = self._finish(line, submitted)
            line.findings.append(check_text(_get(contents, "text.txt"), 4, _PHRASES))
        return [line]

    def report(self) -> list[_Line]:
        lines = []
        contents: dict[str, bytes] = {}
        with self._task("penguins.csv → inspected") as inspected:
            lines.append(inspected)
            self._finish(inspected, self._client.upload(_DATA / "penguins.csv", "text/csv"))
            assert inspected.task is not None
            found = inspected.task["result"].get("table", inspected.task["result"])
            if found.get("rows") != 344:
                raise CheckFailed(f"expected 344 rows, found {found}")
            inspected.findings.append("344 rows")
        with self._task("penguins → report") as reported:
            lines.append(reported)
            if inspected.fault is not None or inspected.task is None:
                raise CheckFailed("the table was not uploaded")
            sources = [{"name": "penguins", "file_id": inspected.task["params"]["file_id"]}]
            report = {"title": "Penguins", "sources": sources, "query": _QUERY, "formats": ["csv", "xlsx"]}
            contents = self._finish(reported, self._client.submit("/reports", report))
            expected = compute_means(_DATA / "penguins.csv")
            reported.findings.append(f"report.csv: {check_csv(_get(contents, 'report.csv'), expected)}")
            reported.findings.append(f"report.xlsx: {check_xlsx(_get(contents, 'report.xlsx'), expected)}")
        with self._task("report → email") as sent:
            lines.append(sent)
            if reported.fault is not None or reported.task is None:
                raise CheckFailed("the report was not made")
            # A data directory that is kept has the messages of earlier demos.
            subject = f"Body mass of penguins ({secrets.token_hex(3)})"
            message = {
                "to": ["Ana Pérez <ana@example.com>"],
                "subject": subject,
                "text": "Hello Ana,\n\nthe means by species and island are attached.\n",
                "attachments": [{"file_id": artifact["id"]} for artifact in reported.task["artifacts"]],
            }
            self._finish(sent, self._client.submit("/emails", message))
            sent.findings.append(check_mail(self._mail_dir, subject, contents))
        return lines

    @contextmanager
    def _task(self, title: str) -> Iterator[_Line]:
        """Yield a line with a progress bar. An expected error in the block is recorded in the line."""
        line = _Line(title, self._progress.add_task(title, total=100, state=""))
        try:
            yield line
        except (RequestRefused, TaskTooSlow, CheckFailed, OSError, KeyError, ValueError) as error:
            line.fault = f"{type(error).__name__}: {error}"
        self._progress.update(line.bar, state="right" if line.fault is None else "wrong")

    def _finish(self, line: _Line, task: Task) -> dict[str, bytes]:
        """Follow the task until it is done, and return the contents of its artifacts by name."""
        line.task = task
        line.task = task = self._client.follow(task, self._make_shower(line.bar), _LIMIT_SECONDS)
        if task["status"] != "succeeded":
            raise CheckFailed(f"the status of the task is {task['status']}: {task['error']}")
        contents = {}
        for artifact in task["artifacts"]:
            content = contents[artifact["name"]] = self._client.download(artifact["url"])
            check_artifact(artifact, content)
        return contents

    def _make_shower(self, bar: TaskID) -> Callable[[Task], None]:
        def show(task: Task) -> None:
            progress = task["progress"] or {}
            percent = 100 if task["status"] == "succeeded" else progress.get("percent") or 0
            state = " ".join(filter(None, [task["status"], progress.get("message")]))
            self._progress.update(bar, completed=percent, state=state)

        return show


def _get(contents: dict[str, bytes], name: str) -> bytes:
    if name not in contents:
        raise CheckFailed(f"expected an artifact {name}, found {sorted(contents)}")
    return contents[name]


def _print_table(console: Console, lines: list[_Line], *, with_urls: bool) -> None:
    """Print what was found. The URLs of the artifacts are of use only while the stack still runs."""
    table = Table("task", "status", "time", "found", title="Results", title_justify="left")
    if with_urls:
        # They are there to be copied: on a narrow terminal they are broken into lines, and never cut.
        table.add_column("artifacts", overflow="fold")
    for line in lines:
        task = line.task
        status = task["status"] if task else "not submitted"
        found = "\n".join(line.findings) if line.fault is None else f"[red]{_escape(line.fault)}[/red]"
        urls = "\n".join(artifact["url"] for artifact in task["artifacts"]) if task else ""
        table.add_row(line.title, status, _time_taken(task), found, *([urls] if with_urls else []))
    console.print(table)


def _time_taken(task: Task | None) -> str:
    if task is None or task["finished_at"] is None:
        return ""
    taken = datetime.fromisoformat(task["finished_at"]) - datetime.fromisoformat(task["created_at"])
    return f"{taken.total_seconds():.2f} s"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _show_next_steps(console: Console) -> None:
    console.print(
        """
To go on:

  ./taskmill up        runs the same stack until Ctrl-C, and prints its addresses and the key
  <API address>/docs   shows every route, and lets you try it
  docs/guide.md        shows common jobs, with curl and Python""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _run_until_interrupted(console: Console, stack: LocalStack, lines: list[_Line]) -> None:
    ready = stack.ready
    url = ready["api_url"]
    key_file = stack.data_dir / "api_key"
    example = next((line.task["id"] for line in lines if line.task), "<id>")
    console.print(
        f"""
The stack still runs, with its data in {stack.data_dir}. To go on (docs/guide.md has more):

  export KEY="$(cat '{key_file}')"
  curl -H "Authorization: Bearer $KEY" {url}/tasks/{example}
  curl -H "Authorization: Bearer $KEY" -F file=@some.pdf {url}/files
  curl -H "Authorization: Bearer $KEY" '{url}/tasks?status=succeeded'

Docs:   {url}/docs
Flower: {ready["flower_url"]} (user {ready["flower_user"]}, password {ready["flower_password"]})
Mail:   {ready["mail_url"]}

Ctrl-C stops it.""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    try:
        stack.wait()
    except KeyboardInterrupt:
        console.print("Stopping the stack.")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C within the block, so that the stack is stopped in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
