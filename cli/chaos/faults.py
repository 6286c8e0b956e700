"""Causes faults in the processes and servers of a running local stack."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import psutil
import redis

from cli.chaos.mail_server import MailServer
from cli.chaos.schedule import FREEZE_SECONDS, Fault, stop_seconds
from cli.local_stack.stack import LocalStack
from shared.contracts.kind import QUEUES

WAIT_SECONDS: Final = 20.0
"""How long a fault waits for the process or the answer that it needs."""
_COPIES: Final = 4
CHILD_MODULE: Final = "workers.sandbox.child_main"
"""The module in the command line by which a limited child is recognised."""


class NothingHit(Exception):
    """The fault found no process or message. The text says which one was missing."""


class Pause(NamedTuple):
    """When a queue was paused, as Unix times: from the answer to the pause until the request to resume it."""

    queue: str
    begin: float
    end: float


class FaultThrower:
    """Causes the faults. If a part is just being restarted, it waits for its process."""

    def __init__(
        self, stack: LocalStack, mail: MailServer, lease_seconds: float, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._stack = stack
        self._mail = mail
        self._lease_seconds = lease_seconds
        self._wait_seconds = wait_seconds
        self._hit_at = 0.0
        self.pauses: list[Pause] = []
        """The pauses that were in force."""
        self._actions: dict[str, Callable[[Fault], object]] = {
            "kill-worker": lambda fault: self._signal(f"worker-{fault.queue}", signal.SIGKILL),
            "kill-child": lambda _: self._kill_children(),
            "kill-relay": lambda _: self._signal("relay", signal.SIGKILL),
            "kill-beat": lambda _: self._signal("beat", signal.SIGKILL),
            "kill-api": lambda _: self._signal("api", signal.SIGKILL),
            "kill-flower": lambda _: self._signal("flower", signal.SIGKILL),
            "stop-worker": lambda fault: self._stop(f"worker-{fault.queue}", stop_seconds(lease_seconds)),
            "flush-broker": lambda _: self._flush(),
            "kill-broker": lambda _: self._kill_broker(),
            "freeze-broker": lambda _: self._stop("broker", FREEZE_SECONDS),
            "crash-postgres": lambda _: self._signal("postgres", signal.SIGQUIT),
            "stall-mail": lambda _: self._stall_mail(),
            "put-off-mail": lambda _: setattr(mail, "messages_to_defer", 5),
            "drop-mail": lambda _: setattr(mail, "messages_to_drop", 3),
            "pause-queue": lambda fault: self._pause(fault.queue),
            "redeliver": lambda _: self._redeliver(),
        }

    @property
    def known_faults(self) -> frozenset[str]:
        """The names of the faults that it can cause."""
        return frozenset(self._actions)

    def throw(self, fault: Fault) -> float:
        """Cause a fault, wait for its end, and return the Unix time at which it hit. Raises `NothingHit`."""
        self._hit_at = time.time()
        self._actions[fault.name](fault)
        return self._hit_at

    def _find(self, part: str) -> int:
        deadline = time.monotonic() + self._wait_seconds
        while True:
            (pid,) = self._stack.ready["pids"][part] or [None]
            if pid is not None and psutil.pid_exists(pid):
                return int(pid)
            if time.monotonic() > deadline:
                raise NothingHit(f"{part} did not run for {self._wait_seconds:.0f} s")
            time.sleep(0.05)

    def _signal(self, part: str, number: signal.Signals) -> int:
        """Send the signal and return the pid that received it."""
        while True:
            pid = self._find(part)
            self._hit_at = time.time()
            # A process that has just ended is being restarted.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                return pid

    def _stop(self, part: str, seconds: float) -> None:
        pid = self._signal(part, signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _kill_children(self) -> None:
        """Kill all limited children as soon as there is one. Raises `NothingHit` after two seconds without one."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            killed = 0
            for queue in QUEUES:
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    for child in psutil.Process(self._find(f"worker-{queue}")).children(recursive=True):
                        if any(CHILD_MODULE in argument for argument in child.cmdline()):
                            child.kill()
                            killed += 1
            if killed:
                return
            time.sleep(0.01)
        raise NothingHit("no worker ran a limited child for 2 s")

    def _broker(self) -> redis.Redis:
        client: redis.Redis = redis.Redis.from_url(
            self._stack.ready["broker_url"], socket_timeout=2, socket_connect_timeout=2
        )
        return client

    def _flush(self) -> None:
        flushed = 0
        with self._broker() as broker:
            for _ in range(5):
                with contextlib.suppress(redis.RedisError):
                    broker.flushall()
                    flushed += 1
                time.sleep(0.3)
        if not flushed:
            raise NothingHit("the broker did not answer")

    def _kill_broker(self) -> None:
        pid = self._signal("broker", signal.SIGSTOP)
        data: Path = self._stack.data_dir / "broker" / "data"
        for left in data.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _stall_mail(self) -> None:
        self._mail.answering.clear()
        time.sleep(FREEZE_SECONDS)
        self._mail.answering.set()

    def _pause(self, queue: str) -> None:
        self._post(f"/queues/{queue}/pause")
        begin = time.time()
        try:
            self._signal("relay", signal.SIGKILL)
            time.sleep(max(0.0, begin + FREEZE_SECONDS - time.time()))
            self.pauses.append(Pause(queue, begin, time.time()))
        finally:
            self._post(f"/queues/{queue}/resume")

    def _post(self, path: str) -> None:
        """Send a request until the API, which may just be restarting, answers it. Raises `NothingHit` after a time."""
        ready = self._stack.ready
        headers = {"Authorization": f"Bearer {ready['api_key']}"}
        deadline = time.monotonic() + self._wait_seconds
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection(urlsplit(ready["api_url"]).netloc, timeout=self._wait_seconds)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("POST", path, headers=headers)
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.2)
        raise NothingHit(f"the API did not answer POST {path} with 200")

    def _redeliver(self) -> None:
        """Add four copies of each message that is seen before a worker receives it."""
        seen: set[bytes] = set()
        end = time.monotonic() + FREEZE_SECONDS
        with self._broker() as broker:
            while time.monotonic() < end:
                for queue in QUEUES:
                    with contextlib.suppress(redis.RedisError):
                        messages: Any = broker.lrange(queue, 0, 200)
                        unseen = [message for message in messages if message not in seen]
                        seen.update(unseen)
                        if unseen:
                            broker.rpush(queue, *(unseen * _COPIES))
                time.sleep(0.002)
        if not seen:
            raise NothingHit("no message was seen before a worker received it")
