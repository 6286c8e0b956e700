"""Describes the machine and the software, as far as the figures depend on them. No host name, no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

PACKAGES = ("fastapi", "uvicorn", "celery", "kombu", "redis", "psycopg", "sqlalchemy")


def describe() -> dict[str, str | int | float]:
    """Return the description of the machine."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": find_processor(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
    }


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages on which the figures depend."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def find_processor() -> str:
    """Return the model of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or "unknown"
