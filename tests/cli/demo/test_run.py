from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cli.local_stack.postgres import PostgresServer


def test_the_demo_finds_every_result_right_and_names_the_next_steps(tmp_path: Path) -> None:
    # A failure shows the logs in the folder of the test.
    argv = [sys.executable, "-m", "cli.main", "demo", "--data-dir", str(tmp_path / "demo")]

    outcome = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    PostgresServer(tmp_path / "demo" / "postgres").remove()

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "Every result is right" in outcome.stdout
    assert "./taskmill up" in outcome.stdout
    assert "docs/guide.md" in outcome.stdout
    for found in (
        "thumbnail.jpg: 160 x 107",
        "344 rows",
        "means as expected",
        "2 attachments, equal to the artifacts",
    ):
        assert found in outcome.stdout
