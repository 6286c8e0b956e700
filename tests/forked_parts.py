"""Parts of the platform as forks of one process that has imported them.

A part that is started as an interpreter of its own spends most of a second of processor time on imports, and the tests
start hundreds. The fork runs the same `cli.main`, with an environment, a folder, outputs and an exit of its own; that the
commands start by themselves is seen where the local stack runs them.

The tests' process sends, for each part, a request and one end of a socket pair. On the other end it reads the part's pid
and, once the part has ended, its exit code. Whatever still runs when the tests' process is gone is killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("api.app", "api.serve", "workers.beat_scheduler", "workers.relay.relay", "workers.engine.worker_process")
"""What the commands import when they are called."""

_REQUEST_BYTES = 1 << 20


class ForkedPart:
    """A part that runs, with the face of a `Popen`."""

    def __init__(self, arguments: Sequence[str], connection: socket.socket) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._connection = connection
        self.pid = int(self._read())

    def poll(self) -> int | None:
        """The exit code, below zero for a signal; None while it runs."""
        if self.returncode is None:
            self._connection.settimeout(0)
            try:
                self._take_exit_code()
            except BlockingIOError:
                return None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return when it has ended. Raises `TimeoutExpired` when it has not in so many seconds."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self._take_exit_code()
            except TimeoutError:
                assert timeout is not None
                raise subprocess.TimeoutExpired(list(self.args), timeout) from None
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            # It may have ended since, or be gone before its exit code has come.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _take_exit_code(self) -> None:
        self.returncode = int(self._read())
        self._connection.close()

    def _read(self) -> bytes:
        answer = self._connection.recv(32)
        assert answer, "the process that the parts are forked from has ended"
        return answer


class PartServer:
    """The process that parts are forked from, for as long as the `with` block lasts."""

    def __enter__(self) -> PartServer:
        self._control, theirs = _make_pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked_parts", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        return self

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedPart:
        """Start `taskmill <arguments>` with this environment and no more; what it prints goes to the file."""
        ours, theirs = _make_pair()
        request = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        with theirs:
            socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
        return ForkedPart(arguments, ours)

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait(timeout=60)


def _make_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends between which a message stays a message."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork when asked: give the request in the process that is to be the part, and None where there is no more to do."""
    connections: dict[int, socket.socket] = {}
    woken, waker = socket.socketpair()
    for end in (woken, waker):
        end.setblocking(False)
    # A handler of any kind lets the signal's number be written to the waker.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                woken.recv(4096)
                _tell_exit_codes(connections)
            if control not in ready:
                continue
            message, descriptors, *_ = socket.recv_fds(control, _REQUEST_BYTES, 1)
            if not message:
                for pid in connections:
                    os.kill(pid, signal.SIGKILL)
                return None
            connection = socket.socket(fileno=descriptors[0])
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for inherited in (control, woken, waker, connection, *connections.values()):
                    inherited.close()
                return json.loads(message)
            connections[pid] = connection
            connection.send(str(pid).encode())


def _tell_exit_codes(connections: dict[int, socket.socket]) -> None:
    while connections:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with connections.pop(pid) as connection:
            try:
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            except OSError:
                # Nobody asks for it any more.
                continue


def _become(request: dict[str, Any]) -> None:
    """Be the part that was asked for."""
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)
    sys.argv = ["taskmill", *request["arguments"]]


def main() -> None:
    """Import what the parts need, and fork them until the other side closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    command = importlib.import_module("cli.main")
    for name in PARTS:
        importlib.import_module(name)
    importlib.import_module("workers.engine.handler_catalog").load_handlers()
    # A fork has only the thread that forks: another might hold a lock for ever.
    assert threading.active_count() == 1
    # What is there now is shared with the forks as long as nobody writes to it.
    gc.freeze()
    if (request := _serve(control)) is not None:
        _become(request)
        command.main()


if __name__ == "__main__":
    main()
