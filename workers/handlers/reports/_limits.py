"""How much one report may use and write."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class ReportLimits:
    """The limits of one report, which its child process is given with the request."""

    query_memory_bytes: int = 1024 * MIB
    """What DuckDB may hold at a time; beyond that it spills to the scratch folder."""
    spill_bytes: int = 4096 * MIB
    query_threads: int = 2
    max_rows: int = 10_000_000
    max_columns: int = 2_000
    max_format_bytes: int = 1024 * MIB
    """The size of one format; for XLSX, of its sheets before they are compressed."""

    @property
    def child_memory_bytes(self) -> int:
        """Return the address space of the child: DuckDB takes about 1 GiB beyond its own limit (code, stacks, buffers)."""
        return self.query_memory_bytes + 1280 * MIB

    @property
    def file_bytes(self) -> int:
        """Return the size of the largest file that the child may write.

        DuckDB spills into few files, and its own limit must be reached first: it has an error with a name.
        """
        return self.spill_bytes + 64 * MIB


LIMITS = ReportLimits()
