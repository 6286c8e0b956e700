"""Runs several processes on one listening socket, and replaces those that end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import structlog

REPLACE_PAUSE_SECONDS = 1.0
"""The pause before a process that has ended is replaced, so that one that always ends does not fill the processor."""
POLL_SECONDS = 0.2
"""How soon the supervisor notices a signal."""
log = structlog.get_logger()


class ProcessSupervisor:
    """Runs `count` processes, each of which calls `run` with the listening socket, until SIGTERM or SIGINT.

    `run` must be importable or picklable: the processes are spawned, since a fork would copy the threads' locks. It stops by
    SIGTERM. The processes also stop when the supervisor is gone.

    `failure_code` is the exit code of a process that cannot start and would fail in the same way again. It ends all of them.
    """

    def __init__(
        self,
        run: Callable[[list[socket.socket]], None],
        listening: socket.socket,
        count: int,
        failure_code: int,
        stop_seconds: float,
    ) -> None:
        self._run_one = run
        self._listening = listening
        self._count = count
        self._failure_code = failure_code
        self._stop_seconds = stop_seconds
        self._stopping = False

    def run(self) -> int:
        """Return 0 after a signal to stop, when all processes have ended, and `failure_code` if one could not start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        processes = [self._start() for _ in range(self._count)]
        try:
            while not self._stopping:
                wait([process.sentinel for process in processes], POLL_SECONDS)
                ended = [process for process in processes if process.exitcode is not None]
                if any(process.exitcode == self._failure_code for process in ended):
                    return self._failure_code
                if ended and not self._stopping:
                    for process in ended:
                        log.warning("api_process_ended", pid=process.pid, exit_code=process.exitcode)
                    processes = self._replace(processes, ended)
            return 0
        finally:
            self._stop_all(processes)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(self._run_one, self._listening))
        process.start()
        return process

    def _replace(self, processes: list[BaseProcess], ended: list[BaseProcess]) -> list[BaseProcess]:
        running = [process for process in processes if process not in ended]
        wait([process.sentinel for process in running], REPLACE_PAUSE_SECONDS)
        return running if self._stopping else running + [self._start() for _ in ended]

    def _stop_all(self, processes: Sequence[BaseProcess]) -> None:
        # While any process has the socket open, the kernel accepts connections that no process serves, and resets them later.
        self._listening.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(self._stop_seconds)
            if process.exitcode is None:
                log.error("api_process_killed", pid=process.pid, seconds=self._stop_seconds)
                process.kill()
                process.join()


def _run(run: Callable[[list[socket.socket]], None], listening: socket.socket) -> None:
    """Call `run` in a new process, and stop it when the supervisor is gone."""
    threading.Thread(target=_stop_with_supervisor, daemon=True).start()
    run([listening])


def _stop_with_supervisor() -> None:
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
