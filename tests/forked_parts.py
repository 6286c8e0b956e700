"""Parts of the platform as forks of one process that has already imported their modules.

A new interpreter spends more than a second of processor time on imports, and the tests start hundreds of parts and commands.
A fork runs the same `cli.main`, with its own environment, output and exit code. The tests of the local stack start the parts
as new interpreters, as a user does.

For each part, the process of the tests sends a request and one end of a socket pair. From the other end it reads the pid
of the part and, when the part has ended, its exit code. When the process of the tests is gone, the parts that still run are
killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
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
from typing import TypedDict

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("api.app", "api.serve", "workers.beat_scheduler", "workers.relay.relay", "workers.engine.worker_process")
"""The modules that the commands import when they are called."""

_REQUEST_BYTES = 1 << 20


class ForkedPart:
    """A part that runs in a fork. It has the methods of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], connection: socket.socket) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._connection = connection
        self.pid = int(self._read())

    def poll(self) -> int | None:
        """Return the exit code (negative for a signal), or None while the part runs."""
        if self.returncode is None:
            self._connection.settimeout(0)
            try:
                self._take_exit_code()
            except BlockingIOError:
                return None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the part has ended and return its exit code. Raises `TimeoutExpired` after `timeout` seconds."""
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
        """Send a signal, unless the part has ended."""
        if self.poll() is None:
            # The part may have ended in the meantime, or before its exit code arrived.
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


Part = subprocess.Popen[bytes] | ForkedPart
"""A running part, however it was started."""


class _Request(TypedDict):
    """What the process of the tests sends to start a part."""

    arguments: list[str]
    environment: dict[str, str]
    output: str
    errors: str


class PartServer:
    """The process from which parts are forked. It runs as long as the `with` block lasts."""

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

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: Path, errors: Path | None = None
    ) -> ForkedPart:
        """Start `taskmill <arguments>` with exactly this environment.

        Its standard output goes to the file `output`, and its standard error to `errors`, or also to `output`.
        """
        ours, theirs = _make_pair()
        request = _Request(
            arguments=list(arguments), environment=dict(environment), output=str(output), errors=str(errors or output)
        )
        with theirs:
            socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
        return ForkedPart(arguments, ours)

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait(timeout=60)


def _make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a socket that keeps the boundaries of messages."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _serve(control: socket.socket) -> _Request | None:
    """Fork a part for each request. Return the request in the fork, and None in this process when no more can come."""
    connections: dict[int, socket.socket] = {}
    woken, waker = socket.socketpair()
    for end in (woken, waker):
        end.setblocking(False)
    # Python writes the number of a signal to the waker only if the signal has a handler.
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
                _send_exit_codes(connections)
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
                request: _Request = json.loads(message)
                return request
            connections[pid] = connection
            connection.send(str(pid).encode())


def _send_exit_codes(connections: dict[int, socket.socket]) -> None:
    while connections:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with connections.pop(pid) as connection:
            try:
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            except OSError:
                # The test has closed its end.
                continue


def _become(request: _Request) -> None:
    """Turn this fork into the requested part: its environment, its output and its arguments."""
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    for descriptor, name in ((1, request["output"]), (2, request["errors"])):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(write_through=True)
    sys.argv = ["taskmill", *request["arguments"]]


def main() -> None:
    """Import the modules of the parts, and fork parts until the process of the tests closes its end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    command = importlib.import_module("cli.main")
    for name in PARTS:
        importlib.import_module(name)
    importlib.import_module("workers.engine.handler_catalog").load_handlers()
    # A fork has only the thread that forks. Any other thread could hold a lock, which nobody would release in the fork.
    assert threading.active_count() == 1
    # The garbage collector does not touch frozen objects, so that the forks share their memory pages.
    gc.freeze()
    if (request := _serve(control)) is not None:
        _become(request)
        command.main()


if __name__ == "__main__":
    main()
