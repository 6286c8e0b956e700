"""Does nothing: that it was reached is the answer."""

from __future__ import annotations

from shared.contracts.platform.canary import CanaryParams, CanaryResult
from workers.handler_context import HandlerContext


def handle(params: CanaryParams, context: HandlerContext) -> CanaryResult:
    """Come through."""
    return CanaryResult()
