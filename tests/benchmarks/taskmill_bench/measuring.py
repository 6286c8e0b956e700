"""Medians and percentiles, and the processor time and memory of processes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import psutil


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are not None, or None if there is none."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that a share (0 to 1) of all values does not exceed. `values` must not be empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def processor_seconds(roots: Iterable[int]) -> float:
    """Return the processor time so far, in user and kernel mode, of processes and all their descendants.

    A descendant that has ended counts by way of whichever ancestor waited for it; a root that has ended is lost.
    """
    total = 0.0
    for process in _family(roots):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def resident_bytes(roots: Iterable[int]) -> int:
    """Return the resident memory of processes and their descendants. Shared memory counts for each process."""
    total = 0
    for process in _family(roots):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _family(roots: Iterable[int]) -> set[psutil.Process]:
    family: set[psutil.Process] = set()
    for pid in roots:
        try:
            root = psutil.Process(pid)
            family |= {root, *root.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return family
