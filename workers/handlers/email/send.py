"""Sends one message to each recipient at most once, unless a person asks for a retry. `_sending.py` says how."""

from __future__ import annotations

from shared.contracts.email.send import SendParams, SendResult
from workers.handler_context import HandlerContext
from workers.handlers.email._sending import deliver, make_mail_server


def handle(params: SendParams, context: HandlerContext) -> SendResult:
    """Send through the mail server in the settings. Raises `ConfigurationError` when the settings are not valid."""
    return deliver(params, context, make_mail_server(context))
