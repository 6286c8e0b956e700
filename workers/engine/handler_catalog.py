"""Finds the handler of every kind: `files.make_images` is `handle` in `workers/handlers/files/make_images.py`.

The handlers of an installed package are the modules of its subpackage `handlers`: see `shared/contracts/catalog.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from shared.contracts.catalog import list_families, list_kinds, list_public_modules
from shared.errors import ConfigurationError
from workers.handler_context import HandlerContext

Handler = Callable[[Any, HandlerContext], Any]


class HandlerMissing(ConfigurationError):
    """A kind has no handler, or a handler has no kind. The worker does not start."""


def load_handlers() -> dict[str, Handler]:
    """Import the handler of every kind and return them by the name of the kind.

    Raises `HandlerMissing`, or another `ConfigurationError` when a module cannot be imported.
    """
    families = list_families()
    modules = {
        f"{family.name}.{module}": f"{family.handlers}.{module}"
        for family in families.values()
        for module in list_public_modules(family.handlers)
    }
    kinds = set(list_kinds())
    for kind in sorted(kinds - set(modules)):
        family, _, name = kind.partition(".")
        raise HandlerMissing(f"the kind {kind} has no handler: add the module {families[family].handlers}.{name}")
    for kind in sorted(set(modules) - kinds):
        family, _, name = kind.partition(".")
        raise HandlerMissing(f"{modules[kind]} has no contract: add the module {families[family].contracts}.{name}")
    return {kind: _load_handler(module) for kind, module in modules.items()}


def _load_handler(module_name: str) -> Handler:
    try:
        handle = getattr(importlib.import_module(module_name), "handle", None)
    except Exception as error:
        raise ConfigurationError(
            f"the handler {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(handle):
        raise HandlerMissing(f"{module_name} has no function `handle(params, context)`")
    handler: Handler = handle
    return handler
