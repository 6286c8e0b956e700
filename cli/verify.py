"""`taskmill verify`: prints the broken promises that `shared.verification` finds."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from shared.queries.verification import CHECKS
from shared.settings import Settings
from shared.verification import Finding, Report, verify

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST_WARNINGS_SHOWN = 10
_PROMISES = {check.name: check.promise for check in CHECKS} | {
    "objects": "Every file has its object, with the same size and content.",
    "orphans": "Every object older than 26 hours belongs to a file.",
}


def parse_since(text: str | None) -> datetime | None:
    """Parse a time (RFC 3339) or an age (`90s`, `15m`, `3h`, `7d`). Raises `typer.BadParameter`."""
    if text is None:
        return None
    if age := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return datetime.now(UTC) - timedelta(seconds=int(age[1]) * _SECONDS[age[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("a time such as 2026-11-24T10:00:00Z, or an age such as 3h or 7d") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def run_verify(settings: Settings, since: str | None, *, deep: bool, as_json: bool) -> int:
    """Verify, print, and return the exit code: 0 when every promise holds, 1 when one is broken."""
    moment = parse_since(since)
    report = verify(settings, since=moment, deep=deep, on_finding=None if as_json else print_finding)
    if as_json:
        print(json.dumps(as_document(report)))
    else:
        print_summary(report)
    return 0 if report.sound else 1


def print_finding(finding: Finding) -> None:
    """Print one broken promise in one line."""
    print(f"{finding.check}: {finding.subject}: {finding.detail}")


def print_summary(report: Report) -> None:
    """Print the warnings, what was checked, and which promises are broken."""
    for finding in report.warnings[:_MOST_WARNINGS_SHOWN]:
        print(f"warning: {finding.check}: {finding.subject}: {finding.detail}", file=sys.stderr)
    if len(report.warnings) > _MOST_WARNINGS_SHOWN:
        print(f"warning: and {len(report.warnings) - _MOST_WARNINGS_SHOWN} more", file=sys.stderr)
    tasks = ", ".join(f"{count} {status}" for status, count in report.tasks.items()) or "none"
    print(f"Tasks: {tasks}. Files: {report.files}. Objects: {report.objects}.")
    for name, count in report.counts.items():
        if count:
            print(f"BROKEN, {count} times: {_PROMISES[name]} ({name})")
    if report.sound:
        print(f"All {len(report.counts)} promises hold.")


def as_document(report: Report) -> dict[str, Any]:
    """Return a report as a document for JSON."""
    return {
        "sound": report.sound,
        "tasks": report.tasks,
        "files": report.files,
        "objects": report.objects,
        "checks": report.counts,
        "broken": [finding._asdict() for finding in report.broken],
        "warnings": [finding._asdict() for finding in report.warnings],
    }
