"""Compares what submissions and uploads ask for with the limits of their caller.

What is counted, such as tasks in a day, the database refuses (`api/http/quota_refusals.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from api.http.problems import FieldError, Problem
from api.submitting.parsing import Parsed
from shared.contracts.email._mailboxes import BadMailbox, parse_mailbox
from shared.limits import HeldLimits, sender_is_allowed

EMAIL_KIND: Final = "email.send"


def check_submissions(held: HeldLimits, submissions: Sequence[Parsed], mail_from: str) -> None:
    """Raise the problem `quota-retention-seconds` or `quota-senders` if a submission asks for more than is allowed.

    A submission that does not say how long it is kept is kept for as long as is allowed: the database shortens the default.
    """
    longest, lists = held.least("retention_seconds"), held.sender_lists()
    if longest is None and not lists:
        return
    for parsed in submissions:
        if longest is not None and "keep_for" in parsed.options.model_fields_set:
            require_retention(held, parsed.options.keep_for, f"{parsed.pointer}/keep_for")
        if lists and parsed.kind_name == EMAIL_KIND:
            _require_sender(lists, orjson.loads(parsed.params).get("from"), mail_from, f"{parsed.params_pointer}/from")


def require_retention(held: HeldLimits, keep_seconds: int, pointer: str) -> None:
    """Raise the problem `quota-retention-seconds` if something is kept for longer than is allowed."""
    longest = held.least("retention_seconds")
    if longest is not None and keep_seconds > longest:
        message = f"At most {longest} seconds are allowed."
        raise Problem("quota-retention-seconds", errors=[FieldError(pointer, "less_than_equal", message)])


def shorten_retention(held: HeldLimits, keep_seconds: int) -> int:
    """Return for how many seconds a file is kept whose upload does not say so."""
    longest = held.least("retention_seconds")
    return keep_seconds if longest is None else min(keep_seconds, longest)


def _require_sender(lists: Sequence[Sequence[str]], sender: object, mail_from: str, pointer: str) -> None:
    if not isinstance(sender, str):
        # The platform's own sender, or a reference of a workflow, which the worker checks.
        return
    try:
        address = parse_mailbox(sender).address
        own = parse_mailbox(mail_from).address
    except BadMailbox:
        return
    if address.lower() != own.lower() and not all(sender_is_allowed(address, allowed) for allowed in lists):
        message = f"{address} is not among the allowed senders."
        raise Problem("quota-senders", errors=[FieldError(pointer, "not_allowed", message)])
