"""What a submission asks for when its task ends: a webhook, and a message by email.

It is stored with the task in `task_follow_ups`, or with a schedule for each of its tasks, and carried out by the database in
the transaction that ends the task.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import orjson

from shared.contracts.catalog import list_kinds
from shared.contracts.email.send import SendParams
from shared.stored_secrets import SecretCipher
from shared.tasks.options import NotifyOption, TaskOptions
from shared.tasks.submission import make_task, submission_document
from shared.webhooks.signing import SECRET_PURPOSE

NOTICE_KIND: Final = "email.send"
_SET_AT_THE_END: Final = "set when the task ends"


def make_follow_up(
    options: TaskOptions, cipher: SecretCipher, organization_id: UUID, owner_id: UUID
) -> dict[str, Any] | None:
    """Return what the options ask for, in the form in which it is stored, or None if that is nothing.

    The secret of a webhook is encrypted. The message is a whole submission, whose subject and text the database replaces.
    """
    found: dict[str, Any] = {}
    if options.webhook is not None:
        found["webhook_url"] = options.webhook.url
        if options.webhook.secret is not None:
            found["webhook_secret"] = cipher.encrypt(options.webhook.secret, SECRET_PURPOSE)
    if options.notify is not None:
        submission = _make_notice(options.notify, options, organization_id, owner_id)
        found["notify"] = {"on": options.notify.on, "submission": submission}
    return found or None


def read_follow_up(stored: dict[str, Any] | None, cipher: SecretCipher) -> dict[str, Any]:
    """Return the options `webhook` and `notify`, as a caller sends them, from their stored form."""
    found: dict[str, Any] = {}
    stored = stored or {}
    if "webhook_url" in stored:
        found["webhook"] = {"url": stored["webhook_url"]}
        if "webhook_secret" in stored:
            found["webhook"]["secret"] = cipher.decrypt(stored["webhook_secret"], SECRET_PURPOSE)
    if "notify" in stored:
        found["notify"] = {"email": stored["notify"]["submission"]["params"]["to"], "on": stored["notify"]["on"]}
    return found


def _make_notice(notify: NotifyOption, options: TaskOptions, organization_id: UUID, owner_id: UUID) -> dict[str, Any]:
    kind = list_kinds()[NOTICE_KIND]
    params = SendParams(to=tuple(notify.email), subject=_SET_AT_THE_END, text=_SET_AT_THE_END, headers={})
    task = make_task(
        NOTICE_KIND,
        kind,
        params.model_dump_json(by_alias=True).encode(),
        kind.queue_for(params),
        TaskOptions(keep_for=options.keep_for),
        organization_id,
        owner_id,
    )
    submission: dict[str, Any] = orjson.loads(submission_document([task]))[0]
    del submission["id"]
    return submission
