"""How much one report may use and give."""

from __future__ import annotations

MIB = 1 << 20

QUERY_MEMORY_BYTES = 1024 * MIB
"""What DuckDB may hold at a time; beyond that it spills to the scratch folder."""

CHILD_MEMORY_BYTES = QUERY_MEMORY_BYTES + 1280 * MIB
"""Address space of the child: DuckDB reserves about 1 GiB beyond its own limit (code, stacks, buffers)."""

SPILL_BYTES = 4096 * MIB
FILE_BYTES = SPILL_BYTES
"""The largest file that the child may write; DuckDB spills into few files."""

QUERY_THREADS = 2

MAX_ROWS = 10_000_000
MAX_COLUMNS = 2_000
MAX_FORMAT_BYTES = 1024 * MIB
"""The size of one format; for XLSX, of its sheets before they are compressed."""
