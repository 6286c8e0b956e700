"""The handler of canaries: it has no work, because a canary that succeeds shows that its queue works."""

from __future__ import annotations

from shared.contracts.platform.canary import CanaryParams, CanaryResult
from workers.handler_context import HandlerContext


def handle(params: CanaryParams, context: HandlerContext) -> CanaryResult:
    """Return at once."""
    return CanaryResult()
