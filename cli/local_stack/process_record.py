"""Records the processes of the supervisor, so that a later one can end what a killed one left running."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from cli.local_stack.owned_files import read_memory
from cli.local_stack.process_identity import (
    ProcessIdentity,
    identify,
    is_alive,
    list_descendants,
    list_marked,
    signal_all,
    wait_until_gone,
)

MARK = "TASKMILL_LOCAL_STACK"
"""The environment variable that every process of a stack inherits. Its value differs for each stack."""

_ORDERLY_SECONDS = 3.0


class ProcessRecord:
    """The running parts, by name, in a file. Only the holder of the lock of the data directory may use it."""

    def __init__(self, path: Path, mark: str) -> None:
        self._path = path
        self._mark = mark
        self._running: dict[str, ProcessIdentity] = {}

    def add(self, part: str, pid: int) -> None:
        """Record that the part now runs as this process."""
        if identity := identify(pid):
            self._running[part] = identity
            self._write()

    def clear(self) -> None:
        """Delete all records, after everything has ended."""
        self._running.clear()
        self._write()

    def list_strays(self) -> list[ProcessIdentity]:
        """Return running processes of this stack that are not parts: what parts started and left behind."""
        parts = {identity.pid for identity in self._running.values()} | {os.getpid()}
        return [identity for identity in list_marked(MARK, self._mark) if identity.pid not in parts]

    def end_earlier(self) -> int:
        """End the processes that an earlier supervisor left running, with their children, and return their number.

        The parts get SIGTERM first, so that workers requeue their tasks, and are killed after three seconds.
        """
        recorded = [ProcessIdentity(**entry) for entry in read_memory(self._path).get("running", {}).values()]
        alive = [identity for identity in recorded if is_alive(identity)]
        everything = {*alive, *self.list_strays()}
        everything.update(descendant for identity in alive for descendant in list_descendants(identity.pid))
        if everything:
            signal_all(alive, signal.SIGTERM)
            wait_until_gone(alive, _ORDERLY_SECONDS)
            everything.update(self.list_strays())
            signal_all(everything, signal.SIGKILL)
            wait_until_gone(everything, 5)
        self.clear()
        return len(everything)

    def _write(self) -> None:
        # Without a sync to the disk: after a power cut there are no processes to end.
        text = json.dumps({"running": {part: asdict(identity) for part, identity in self._running.items()}})
        draft = self._path.with_suffix(".new")
        # On a full disk the parts must run all the same. Processes that the record lacks are found by the mark.
        with suppress(OSError):
            draft.touch(mode=0o600)
            draft.write_text(text + "\n", encoding="utf-8")
            draft.replace(self._path)
