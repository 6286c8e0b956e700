from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cli.local_stack.process_identity import (
    ProcessIdentity,
    identify,
    is_alive,
    list_descendants,
    list_marked,
    signal_all,
    wait_until_gone,
)
from tests.conftest import PATIENCE_SECONDS, stays_true, wait_until_true


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, "TASKMILL_TEST_MARK": "here"})
    yield process
    process.kill()
    process.wait(PATIENCE_SECONDS)


def test_a_running_process_is_identified_again(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)

    assert identity is not None
    assert identity == identify(sleeper.pid)
    assert is_alive(identity)


def test_a_process_that_ended_is_not_alive_even_while_it_is_a_zombie(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    assert identity is not None

    sleeper.kill()

    assert wait_until_gone([identity], limit_seconds=60)
    assert sleeper.returncode is None, "it must not have been waited for yet"


def test_another_process_with_the_same_pid_is_not_taken_for_the_first(sleeper: subprocess.Popen[bytes]) -> None:
    current = identify(sleeper.pid)
    assert current is not None
    earlier = ProcessIdentity(sleeper.pid, current.started + "0")

    assert not is_alive(earlier)
    signal_all([earlier], signal.SIGKILL)

    assert stays_true(lambda: sleeper.poll() is None, 0.1)


def test_a_marked_process_is_found_by_its_mark(sleeper: subprocess.Popen[bytes]) -> None:
    found = list_marked("TASKMILL_TEST_MARK", "here")

    assert sleeper.pid in {identity.pid for identity in found}


def test_descendants_are_found_in_other_sessions_too() -> None:
    script = "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        descendants = wait_until_true(lambda: list_descendants(parent.pid))
        assert len(descendants) == 1
        signal_all(descendants, signal.SIGKILL)
        assert wait_until_gone(descendants, limit_seconds=60)
    finally:
        parent.kill()
        parent.wait(PATIENCE_SECONDS)
