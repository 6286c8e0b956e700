"""Prints the log lines of all parts on one standard output, each after the name of its part."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from contextlib import suppress

_LONGEST_LINE_BYTES = 64 * 1024
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class LogPrinter:
    """Prints lines from a thread of its own, so that a terminal that takes none does not hold the supervisor up.

    What does not fit into its queue meanwhile is dropped, and counted.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._coloured = sys.stdout.isatty()
        self._colours: dict[str, int] = {}
        self._queue: queue.Queue[str | None] = queue.Queue(maxsize=20_000)
        self._dropped = 0
        self._thread = threading.Thread(target=self._print_all, name="log-printer", daemon=True)
        self._thread.start()

    def say(self, part: str, text: str) -> None:
        """Print each line of the text after the name of the part."""
        for line in text.splitlines():
            self._put(f"{self._head(part)} {line}")

    def plain(self, text: str) -> None:
        """Print the text without a name."""
        self._put(text)

    def close(self, patience_seconds: float = 1.0) -> None:
        """Print what is left, and stop; wait for no longer than the given time."""
        try:
            self._queue.put(None, timeout=patience_seconds)
        except queue.Full:
            return
        self._thread.join(patience_seconds)

    def _put(self, text: str) -> None:
        try:
            if self._dropped:
                self._queue.put_nowait(f"{self._head('taskmill')} {self._dropped} lines were dropped")
                self._dropped = 0
            self._queue.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def _head(self, part: str) -> str:
        head = f"{part:<{self._width}} |"
        if not self._coloured:
            return head
        colour = self._colours.setdefault(part, _COLOURS[len(self._colours) % len(_COLOURS)])
        return f"\x1b[{colour}m{head}\x1b[0m"

    def _print_all(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                print(text, flush=self._queue.empty())
            except (OSError, ValueError):
                # Nobody reads any more; the stack runs on.
                continue
        with suppress(OSError, ValueError):
            sys.stdout.flush()


class LinePump(asyncio.Protocol):
    """Reads the output of a part from a pipe, and passes it on line by line."""

    def __init__(self, printer: LogPrinter, part: str) -> None:
        self._printer = printer
        self._part = part
        self._rest = b""
        self.finished = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._say(line)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._say(self._rest)
        if not self.finished.done():
            self.finished.set_result(None)

    def _say(self, line: bytes) -> None:
        self._printer.say(self._part, line.decode("utf-8", errors="replace").rstrip("\r"))
