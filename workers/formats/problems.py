"""The errors of reading that several families share. Imports nothing heavy: limited children use it too."""

from __future__ import annotations

from workers.outcomes import Failed

NEITHER_TEXT_NOR_PARQUET = "it is neither text nor Parquet."


def unreadable_table(reason: str, source: str | None = None) -> Failed:
    """Return the error of a file that cannot be read as a table.

    `reason` is the rest of a sentence, ends with a full stop and quotes no value of the file. `source` is the name that
    a report gives to the file.
    """
    subject = "The file" if source is None else f'The source "{source}"'
    return Failed(
        "/problems/unreadable-table",
        "Unreadable table",
        f"{subject} cannot be read as a table: {reason}",
        data=None if source is None else {"source": source},
    )


def unreadable_text(reason: str = "it is not text in a known encoding.") -> Failed:
    """Return the error of bytes that are not text, or not text in the encoding that the caller named."""
    return Failed("/problems/unreadable-text", "Unreadable text", f"The file cannot be read as text: {reason}")


def out_of_memory() -> Failed:
    """Return the error of a query that needs more memory than one task may use."""
    return Failed(
        "/problems/out-of-memory",
        "Out of memory",
        "The work needed more memory than one task may use. Try fewer rows or fewer columns.",
    )


def storage_full() -> Failed:
    """Return the error of a worker whose disk has no room for temporary data."""
    return Failed(
        "/problems/storage-full",
        "Storage full",
        "The worker's disk has no room for the temporary data of this work. It will be tried again.",
        retryable=True,
    )


def engine_failed() -> Failed:
    """Return the error of work whose temporary files could not be read or written."""
    return Failed(
        "/problems/internal-error",
        "Internal error",
        "The query engine could not read or write its temporary files.",
        retryable=True,
    )
