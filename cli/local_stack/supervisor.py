"""Starts the parts of the stack, restarts those that die, and stops all of them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cli.local_stack.child_process import Command, kill_group, spawn
from cli.local_stack.log_printer import LinePump, LogPrinter
from cli.local_stack.process_identity import is_alive, list_descendants, signal_all, wait_until_gone
from cli.local_stack.process_record import ProcessRecord

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_SETTLED_SECONDS = 10.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Part:
    """One process to keep running.

    `clear_remains` is called when it has ended, to remove what it left behind outside of its process group, which is
    killed. `patience_seconds` is how long it may take to stop before it is killed.
    """

    name: str
    command: Command
    clear_remains: Callable[[], None] = lambda: None
    patience_seconds: float = 3.0


class Supervisor:
    """Keeps parts running. Calls `on_restart` after each restart of a part that had died."""

    def __init__(self, printer: LogPrinter, record: ProcessRecord, on_restart: Callable[[], object]) -> None:
        self._printer = printer
        self._record = record
        self._on_restart = on_restart
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._parts: dict[str, Part] = {}
        self._pumps: set[LinePump] = set()
        self._hurry = asyncio.Event()
        self._stopping: set[str] = set()
        self._exit_codes: dict[str, int] = {}
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hurry(self) -> None:
        """Kill the parts that are stopping, without waiting for them."""
        self._hurry.set()

    async def wait_for_fault(self) -> None:
        """Raise the error that prevents the supervisor from keeping a part running. Without one, never return."""
        await asyncio.shield(self._fault)

    def find_pid(self, name: str) -> int | None:
        """Return the pid of the part's last process, or None if it was not started."""
        process = self._processes.get(name)
        return process.pid if process else None

    def find_exit_code(self, name: str) -> int | None:
        """Return the exit code with which the part ended last by itself, or None if it never did."""
        return self._exit_codes.get(name)

    async def start(self, part: Part) -> None:
        """Start a part, and keep it running. Raises `OSError` if it cannot be executed."""
        await self._spawn(part)
        keeper = self._keepers[part.name] = asyncio.create_task(self._keep(part), name=f"keep {part.name}")
        keeper.add_done_callback(self._note_fault)

    async def run_once(self, part: Part) -> int:
        """Run a part to its end and return its exit code. Kill it when this is cancelled."""
        await self._spawn(part)
        process = self._processes[part.name]
        try:
            return await _wait_for_exit(process)
        finally:
            if process.poll() is None:
                kill_group(process.pid)
                process.wait()
            del self._parts[part.name], self._processes[part.name]

    async def restart(self, name: str) -> None:
        """Stop a part as at the end of the stack. It is started again as every part that ends."""
        part, process = self._parts[name], self._processes[name]
        if process.poll() is not None:
            return
        process.send_signal(part.command.stop_signal)
        try:
            await asyncio.wait_for(_wait_for_exit(process), part.patience_seconds)
        except TimeoutError:
            kill_group(process.pid)

    async def stop(self, stages: Sequence[Sequence[str]], limit_seconds: float) -> None:
        """Stop the parts, stage by stage, within the limit, and kill the processes that they left behind."""
        deadline = time.monotonic() + limit_seconds
        # Only of the parts: this process may have other children.
        descendants = [
            descendant for process in self._processes.values() for descendant in list_descendants(process.pid)
        ]
        for stage in stages:
            await asyncio.gather(*(self._end(name, deadline) for name in stage if name in self._parts))
        strays = {identity for identity in descendants if is_alive(identity)} | set(self._record.list_strays())
        signal_all(strays, signal.SIGKILL)
        wait_until_gone(strays, limit_seconds=2)
        await self._drain_pumps()
        self._record.clear()

    async def _keep(self, part: Part) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            code = await _wait_for_exit(self._processes[part.name])
            if part.name in self._stopping:
                return
            self._exit_codes[part.name] = code
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - began > _SETTLED_SECONDS else pause
            self._printer.say("taskmill", f"{part.name} {_describe(code)}; it is started again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            if part.name in self._stopping:
                return
            try:
                part.clear_remains()
                await self._spawn(part)
            except OSError as error:
                self._printer.say("taskmill", f"{part.name} cannot be started: {error}")
                continue
            self._on_restart()

    async def _spawn(self, part: Part) -> None:
        process = spawn(part.command, subprocess.PIPE)
        self._parts[part.name] = part
        self._processes[part.name] = process
        self._record.add(part.name, process.pid)
        pump = LinePump(self._printer, part.name)
        self._pumps.add(pump)
        pump.finished.add_done_callback(lambda _: self._pumps.discard(pump))
        await asyncio.get_running_loop().connect_read_pipe(lambda: pump, process.stdout)

    async def _end(self, name: str, deadline: float) -> None:
        part = self._parts[name]
        self._stopping.add(name)
        process = self._processes[name]
        if process.poll() is None:
            process.send_signal(part.command.stop_signal)
            patience = max(0.1, min(part.patience_seconds, deadline - time.monotonic()))
            exit_or_hurry = [
                asyncio.create_task(_wait_for_exit(process)),
                asyncio.create_task(self._hurry.wait()),
            ]
            _, pending = await asyncio.wait(exit_or_hurry, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            if process.poll() is None:
                self._printer.say("taskmill", f"{name} did not stop in time and is killed")
                kill_group(process.pid)
                await _wait_for_exit(process)
        # A stop during the start finds parts that are not kept running yet.
        if name in self._keepers:
            self._keepers[name].cancel()
        part.clear_remains()

    def _note_fault(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (error := keeper.exception()) and not self._fault.done():
            self._fault.set_exception(error)

    async def _drain_pumps(self) -> None:
        if self._pumps:
            await asyncio.wait([pump.finished for pump in self._pumps], timeout=0.5)


async def _wait_for_exit(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process, kill the rest of its process group, and return its exit code.

    The exit code of a process that a signal ended is minus its number. Nothing of the group may run beside the process
    that replaces it.
    """
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:
            # An old kernel, or the process has ended already: it is polled instead.
            descriptor = -1
        if descriptor >= 0:
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
            if process.returncode is None:
                # Until the process is waited for, its pid, which is the number of its group, is not used again.
                kill_group(process.pid)
    while (code := process.poll()) is None:  # noqa: ASYNC110 - there is no event to wait for.
        await asyncio.sleep(_POLL_SECONDS)
    return code


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
