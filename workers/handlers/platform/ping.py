"""Does nothing for so long, and answers."""

from __future__ import annotations

from shared.contracts.platform.ping import PingParams, PingResult
from workers.handler_context import HandlerContext


def handle(params: PingParams, context: HandlerContext) -> PingResult:
    """Wait and echo; ends at once when cancelled or out of time."""
    if params.sleep_ms:
        context.sleep(params.sleep_ms / 1000)
    return PingResult(echo=params.echo)
