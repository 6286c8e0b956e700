"""`maintenance.seal_audit`: seals new entries of the audit log, and deletes those that were kept long enough."""

from __future__ import annotations

from shared.contracts.kind import Kind, Params, Result


class SealAuditParams(Params):
    """It has no params."""


class SealAuditResult(Result):
    """How many entries were sealed and deleted."""

    seals: int
    entries: int
    deleted_seals: int
    deleted_entries: int


KIND = Kind(
    params=SealAuditParams,
    result=SealAuditResult,
    title="Seal the audit log",
    description="Seals new entries of the audit log, so that `taskmill verify` finds a change, and deletes entries that are older "
    "than TASKMILL_AUDIT_KEEP_DAYS.",
    queue="maintenance",
    max_attempts=2,
    timeout_seconds=1800,
    uses_files=False,
    public=False,
)
