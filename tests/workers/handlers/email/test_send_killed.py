"""The outcome of an email whose worker process is killed by SIGKILL at each step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from shared.contracts.email.send import SendParams, SendResult
from tests.workers.handlers.email.conftest import MakeContext, ScriptedSmtp
from workers.adapters.memory_context import MemoryContext
from workers.handlers.email._sending import deliver
from workers.outcomes import Failed

PARAMS = SendParams.model_validate({"to": ["a@example.com"], "text": "Hi"})

DYING_WORKER = """
import os, signal, sys, uuid
from pathlib import Path
from sqlalchemy import create_engine
from shared.contracts.email.send import SendParams
from workers.adapters.memory_context import MemoryContext
from workers.adapters.smtp import SmtpServer, parse_smtp_url
from workers.handlers.email import _sending as send

moment, database, smtp, task_id, folder = sys.argv[1:]
function, after = {
    "after the intent": ("write_intent", True),
    "after the server accepted": ("write_receipts", False),
    "after the receipt": ("_conclude", False),
}[moment]
original = getattr(send, function)

def die(*args, **more):
    if after:
        original(*args, **more)
    elif function == "write_receipts" and not args[2]:
        return original(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(send, function, die)
context = MemoryContext(Path(folder), task_id=uuid.UUID(task_id), max_attempts=8, engine=create_engine(database))
params = SendParams.model_validate({"to": ["a@example.com"], "text": "Hi"})
send.deliver(params, context, SmtpServer(parse_smtp_url(smtp)))
"""


@pytest.mark.parametrize(
    ("moment", "sent", "outcome"),
    [
        ("after the intent", 0, "/problems/delivery-unknown"),
        ("after the server accepted", 1, "/problems/delivery-unknown"),
        ("after the receipt", 1, "accepted"),
    ],
)
def test_the_attempt_after_a_killed_one_sends_nothing_twice(
    smtp: ScriptedSmtp,
    engine: Engine,
    make_context: MakeContext,
    tmp_path: Path,
    moment: str,
    sent: int,
    outcome: str,
) -> None:
    task_id = uuid4()
    database = engine.url.render_as_string(hide_password=False)
    arguments = [moment, database, f"smtp://127.0.0.1:{smtp.port}", str(task_id), str(tmp_path / "scratch")]

    died = subprocess.run(
        [sys.executable, "-c", DYING_WORKER, *arguments], check=False, timeout=90, env=dict(os.environ)
    )
    next_attempt = deliver_again(make_context(2, task_id), smtp)

    assert died.returncode == -signal.SIGKILL
    assert next_attempt == outcome
    assert len(smtp.handler.kept) == sent


def deliver_again(context: MemoryContext, smtp: ScriptedSmtp) -> str:
    """Return the status of the only recipient, or the type of the failure."""
    try:
        result: SendResult = deliver(PARAMS, context, smtp.client())
    except Failed as failed:
        return failed.type
    return result.recipients[0].status
