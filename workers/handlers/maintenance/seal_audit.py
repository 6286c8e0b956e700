"""Seals new entries of the audit log, and deletes whole seals that were kept long enough."""

from __future__ import annotations

from typing import Final

from shared.contracts.maintenance.seal_audit import SealAuditParams, SealAuditResult
from shared.queries import audit as queries
from workers.handler_context import HandlerContext

ENTRIES_TOGETHER: Final = 500
"""How many entries one seal covers at most."""
SEALS_TOGETHER: Final = 20
"""How many seals are deleted in one transaction."""


def handle(params: SealAuditParams, context: HandlerContext) -> SealAuditResult:
    """Seal what is not sealed, each seal in a transaction of its own, and delete old seals."""
    seals, entries = _seal(context)
    deleted_seals, deleted_entries = _delete_old(context)
    return SealAuditResult(seals=seals, entries=entries, deleted_seals=deleted_seals, deleted_entries=deleted_entries)


def _seal(context: HandlerContext) -> tuple[int, int]:
    seals = entries = 0
    while True:
        context.check()
        with context.engine.begin() as connection:
            connection.exec_driver_sql(queries.LOCK_CHAIN)
            seal = connection.exec_driver_sql(queries.SEAL, {"limit": ENTRIES_TOGETHER}).one_or_none()
        if seal is None:
            return seals, entries
        # Whoever keeps the logs elsewhere can compare the chain with them.
        context.log.info("audit_sealed", number=seal.number, entries=seal.entries, sha256=seal.sha256)
        seals += 1
        entries += seal.entries


def _delete_old(context: HandlerContext) -> tuple[int, int]:
    parameters = {"keep_days": context.settings.audit_keep_days, "limit": SEALS_TOGETHER}
    seals = entries = 0
    while True:
        context.check()
        with context.engine.begin() as connection:
            deleted = connection.exec_driver_sql(queries.DELETE_OLD_SEALS, parameters).one()
        seals += deleted.seals
        entries += deleted.entries
        if deleted.seals < SEALS_TOGETHER:
            return seals, entries
