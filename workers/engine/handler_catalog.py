"""Kind -> handler, by name: `files.make_images` is done by `handle` in `workers/handlers/files/make_images.py`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from shared.contracts.catalog import FAMILIES, list_kinds
from workers.handler_context import HandlerContext

Handler = Callable[[Any, HandlerContext], Any]


class HandlerMissing(Exception):
    """A kind has no handler, or a handler no kind: the worker does not start."""


def load_handlers() -> dict[str, Handler]:
    """Load the handler of every kind. Raises `HandlerMissing`."""
    handlers: dict[str, Handler] = {}
    for family in FAMILIES:
        package = importlib.import_module(f"workers.handlers.{family}")
        for module_info in pkgutil.iter_modules(package.__path__):
            if module_info.name.startswith("_"):
                continue
            module = importlib.import_module(f"workers.handlers.{family}.{module_info.name}")
            handle = getattr(module, "handle", None)
            if handle is None:
                raise HandlerMissing(f"{module.__name__} has no `handle`")
            handlers[f"{family}.{module_info.name}"] = handle
    if wrong := set(handlers) ^ set(list_kinds()):
        raise HandlerMissing(f"kinds and handlers do not pair: {', '.join(sorted(wrong))}")
    return handlers
