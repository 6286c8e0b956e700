"""The record of what the supervisor started, by which a later one ends what a killed one left running."""

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
"""The environment variable that every process of a stack inherits; its value is that stack's own."""

_ORDERLY_SECONDS = 3.0


class ProcessRecord:
    """The parts that run, by name, on disk. Only the holder of the data directory's lock may have one."""

    def __init__(self, path: Path, mark: str) -> None:
        self._path = path
        self._mark = mark
        self._running: dict[str, ProcessIdentity] = {}

    def add(self, part: str, pid: int) -> None:
        """Remember that the part now runs as this process."""
        if identity := identify(pid):
            self._running[part] = identity
            self._write()

    def clear(self) -> None:
        """Forget all, once everything has ended."""
        self._running.clear()
        self._write()

    def list_strays(self) -> list[ProcessIdentity]:
        """What runs of this stack though it is no part: what a part started and left behind."""
        parts = {identity.pid for identity in self._running.values()} | {os.getpid()}
        return [identity for identity in list_marked(MARK, self._mark) if identity.pid not in parts]

    def end_earlier(self) -> int:
        """End what an earlier supervisor left running, with all that it started; answer how many processes it was.

        The parts are asked first, so that workers hand back what they hold, and killed after three seconds.
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
        # Without waiting for the disk: after a power cut there is nothing left to end.
        text = json.dumps({"running": {part: asdict(identity) for part, identity in self._running.items()}})
        draft = self._path.with_suffix(".new")
        # On a full disk the parts must be kept running all the same; what the record lacks, the mark still tells.
        with suppress(OSError):
            draft.touch(mode=0o600)
            draft.write_text(text + "\n", encoding="utf-8")
            draft.replace(self._path)
