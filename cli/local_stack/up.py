"""`taskmill up`: runs the whole local stack under the supervisor until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.local_stack.data_directory import DataDirectory
from cli.local_stack.log_printer import LogPrinter
from cli.local_stack.plan import STOP_LIMIT_SECONDS, STOP_STAGES, StackPlan
from cli.local_stack.process_record import ProcessRecord
from cli.local_stack.readiness import ReadyNotices, wait_for_notices, wait_until_ready, watch_for_refusals
from cli.local_stack.ready_file import PARTS, ReadyFile
from cli.local_stack.server_process import ServerFailed
from cli.local_stack.source_watch import list_source_folders, wait_for_change
from cli.local_stack.supervisor import Supervisor
from shared.errors import ConfigurationError

_WORKERS_WAIT_SECONDS = 5


@dataclass(frozen=True)
class UpOptions:
    """The options of `taskmill up`. `port` 0 means any free one."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    ready_file: Path | None = None
    reload: bool = False
    """Whether the API and the workers are restarted when a source file changes."""


def run_up(options: UpOptions) -> int:
    """Run the stack until SIGTERM, SIGINT or SIGHUP, and return the exit code.

    Raises `ConfigurationError` when it cannot start: another stack on the directory, a port that is taken, a file that
    cannot be written.
    """
    with DataDirectory(options.data_dir) as directory:
        printer = LogPrinter(width=max(map(len, PARTS)))
        try:
            return asyncio.run(_Stack(options, directory, printer).run())
        finally:
            printer.close()


class _Stack:
    def __init__(self, options: UpOptions, directory: DataDirectory, printer: LogPrinter) -> None:
        self._printer = printer
        self._port = options.port
        self._reload = options.reload
        self._record = ProcessRecord(directory.process_record, directory.secret("mark"))
        # Before the plan, which may move folders that a process of an earlier run still uses.
        if ended := self._record.end_earlier():
            self._say(f"{ended} processes of an earlier run, which was killed, have been ended")
        self._plan = StackPlan(directory, options.host)
        self._ready_paths = [directory.path / "ready.json"]
        if options.ready_file is not None:
            self._ready_paths.append(options.ready_file.absolute())
        self._is_ready = False
        self._api_key = ""

    async def run(self) -> int:
        """Start all parts, run until a signal or an error, stop all parts, and return the exit code."""
        began = time.monotonic()
        self._supervisor = Supervisor(self._printer, self._record, on_restart=self._write_ready_file)
        stop = self._handle_signals()
        self._prepare()
        self._notices = ReadyNotices(self._plan.runs_as.account)
        stopped = asyncio.create_task(stop.wait())
        work = asyncio.create_task(self._start_and_watch(began))
        try:
            await asyncio.wait({stopped, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                # It ends by itself only with an error.
                work.result()
        except (ServerFailed, OSError) as error:
            self._say(str(error))
            return 1
        finally:
            stop.set()
            self._withdraw_ready_file()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await self._supervisor.stop(STOP_STAGES, STOP_LIMIT_SECONDS)
            self._notices.close()
            if self._plan.postgres:
                self._plan.postgres.remove_socket_folder()
        return 0

    def _handle_signals(self) -> asyncio.Event:
        """Return an event that the first signal to stop sets. The second signal kills what has not stopped yet."""
        stop = asyncio.Event()

        def receive(number: signal.Signals) -> None:
            if stop.is_set():
                self._supervisor.hurry()
            else:
                self._say(f"Stopping ({number.name}); again to stop at once")
                stop.set()

        handled = [signal.SIGINT, signal.SIGTERM]
        # nohup asks to ignore the end of the terminal.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handled.append(signal.SIGHUP)
        for number in handled:
            asyncio.get_running_loop().add_signal_handler(number, receive, number)
        return stop

    def _prepare(self) -> None:
        """Remove the ready files of an earlier run. Raises `ConfigurationError` when this one cannot start."""
        for path in self._ready_paths:
            _make_way(path)
        self._plan.choose_ports(self._port)
        runs_as = self._plan.runs_as
        if runs_as.account:
            self._say(f"Started by root: the parts run as the account {runs_as.name}")
        elif runs_as.obstacle:
            self._say(f"Started by root: the parts run as root, because no other account can: {runs_as.obstacle}")

    async def _start_and_watch(self, began: float) -> None:
        plan, supervisor = self._plan, self._supervisor
        if plan.broker:
            plan.broker.prepare()
            await supervisor.start(plan.broker_part(plan.broker))
        if plan.postgres:
            # The first start creates the cluster, which takes a second or two: in a thread, so that signals are handled.
            await asyncio.to_thread(plan.postgres.prepare)
            await supervisor.start(plan.postgres_part(plan.postgres))
        plan.settle_environment()
        if mail := plan.mail_part():
            await supervisor.start(mail)
        if not plan.is_database_prepared():
            if await supervisor.run_once(plan.first_steps()) != 0:
                raise ServerFailed("The database could not be prepared. The lines above say why")
            plan.note_database_prepared()
        for part in plan.list_front_parts():
            await supervisor.start(part)
        # On few cores, parts that all start at once slow each other down. Tasks wait in the database, so the workers start
        # last; but they do start, even if another part does not become ready.
        front = asyncio.create_task(wait_until_ready(*plan.api_address, plan.listeners, self._say))
        await asyncio.wait({front}, timeout=_WORKERS_WAIT_SECONDS)
        for part in plan.list_workers(self._notices.open):
            await supervisor.start(part)
        workers = asyncio.create_task(wait_for_notices(self._notices, supervisor.find_exit_code, self._say))
        await _finish_unless_refused(
            [front, workers], asyncio.create_task(watch_for_refusals(PARTS, supervisor.find_exit_code))
        )
        self._api_key = plan.api_key_file.read_text(encoding="ascii").strip()
        self._is_ready = True
        self._announce(self._write_ready_file(), time.monotonic() - began)
        reloading = asyncio.create_task(self._restart_on_changes()) if self._reload else None
        try:
            await supervisor.wait_for_fault()
        finally:
            if reloading:
                reloading.cancel()

    async def _restart_on_changes(self) -> None:
        """Restart the API and the workers whenever a source file changes, until cancelled."""
        names = [name for name in PARTS if name == "api" or name.startswith("worker-")]
        folders = list_source_folders()
        while True:
            changed = await wait_for_change(folders)
            self._say(f"{changed} has changed: the API and the workers are restarted")
            await asyncio.gather(*(self._supervisor.restart(name) for name in names))

    def _write_ready_file(self) -> ReadyFile | None:
        """Write the ready file with the current processes, if the stack is ready, and return its content."""
        if not self._is_ready:
            return None
        ready = self._plan.describe(self._supervisor.find_pid, self._api_key)
        for path in self._ready_paths:
            try:
                ready.write(path)
            except OSError as error:
                self._say(f"{path} cannot be written: {error.strerror}")
        return ready

    def _withdraw_ready_file(self) -> None:
        """Remove the ready file, and do not write it again."""
        self._is_ready = False
        for path in self._ready_paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._say(f"{path} cannot be removed: {error.strerror}")

    def _announce(self, ready: ReadyFile | None, seconds: float) -> None:
        assert ready is not None
        # A log that is stored must not contain secrets.
        on_terminal = sys.stdout.isatty()
        password = f", password {ready.flower_password}" if on_terminal else ""
        lines = [
            f"Taskmill is ready after {seconds:.1f} s. Ctrl-C stops it.",
            f"  API     {ready.api_url}",
            f"  Docs    {ready.api_url}/docs",
            f"  Flower  {ready.flower_url} (user {ready.flower_user}{password})",
            *([f"  Mail    {ready.mail_url}"] if ready.mail_url else []),
            f"  Key     {ready.api_key if on_terminal else f'in {self._plan.api_key_file}'}",
            f"  Admin   admin@localhost, password in {self._plan.api_key_file.with_name('admin-password')}",
        ]
        self._printer.plain("\n" + "\n".join(lines) + "\n")

    def _say(self, text: str) -> None:
        self._printer.say("taskmill", text)


async def _finish_unless_refused(readiness: list[asyncio.Task[None]], refusal: asyncio.Task[None]) -> None:
    """Return when all of the first have ended. Raises what one of them raises, or what the refusal raises before."""
    everything: asyncio.Future[list[None]] = asyncio.gather(*readiness)
    waited_for: set[asyncio.Future[Any]] = {everything, refusal}
    try:
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if refusal.done():
            refusal.result()
        await everything
    finally:
        refusal.cancel()
        everything.cancel()


def _make_way(ready_path: Path) -> None:
    """Remove an earlier ready file. Raises `ConfigurationError` if none can be written there."""
    try:
        ready_path.unlink(missing_ok=True)
        # The attempt uses another name, so that programs which wait for the ready file do not see it too early.
        with tempfile.TemporaryFile(dir=ready_path.parent):
            pass
    except OSError as error:
        reason = "it is a folder" if ready_path.is_dir() else error.strerror
        raise ConfigurationError(
            f"The ready file {ready_path} cannot be written: {reason}. Name a file in a folder that you may write to"
        ) from error
