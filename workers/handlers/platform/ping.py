"""Waits for the requested time, and returns the text of the params."""

from __future__ import annotations

from shared.contracts.platform.ping import PingParams, PingResult
from workers.handler_context import HandlerContext


def handle(params: PingParams, context: HandlerContext) -> PingResult:
    """Wait, and return the text. The wait ends at once when the task is cancelled or its time is over."""
    if params.sleep_ms:
        context.sleep(params.sleep_ms / 1000)
    return PingResult(echo=params.echo)
