"""The names that a package of kinds may import from Taskmill. All other modules of Taskmill are internal.

Contracts use `Kind`, `Params`, `Result`, `FileId`, `Secret` and what belongs to them. The API loads contracts and no handlers, so
importing them does not import the workers: the names that handlers and their tests use are imported at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shared.contracts.kind import FileId, FileReference, Kind, Params, Queue, Result, RetryPolicy
from shared.contracts.secrets import Secret

if TYPE_CHECKING:
    from workers.adapters.memory_context import KeptArtifact, MemoryContext
    from workers.handler_context import HandlerContext, InputFile
    from workers.outcomes import Cancelled, Failed, Stopped, TimedOut

__all__ = [
    "Cancelled",
    "Failed",
    "FileId",
    "FileReference",
    "HandlerContext",
    "InputFile",
    "KeptArtifact",
    "Kind",
    "MemoryContext",
    "Params",
    "Queue",
    "Result",
    "RetryPolicy",
    "Secret",
    "Stopped",
    "TimedOut",
]

_MODULES = {
    "Cancelled": "workers.outcomes",
    "Failed": "workers.outcomes",
    "HandlerContext": "workers.handler_context",
    "InputFile": "workers.handler_context",
    "KeptArtifact": "workers.adapters.memory_context",
    "MemoryContext": "workers.adapters.memory_context",
    "Stopped": "workers.outcomes",
    "TimedOut": "workers.outcomes",
}
"""The modules of the names that handlers and their tests use."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
