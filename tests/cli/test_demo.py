from __future__ import annotations

import subprocess
import sys


def test_the_demo_does_the_main_job_and_finds_every_result_right() -> None:
    outcome = subprocess.run([sys.executable, "-m", "cli.main", "demo"], capture_output=True, text=True, timeout=120)

    assert outcome.returncode == 0, outcome.stdout
    assert "Every result is right" in outcome.stdout
    for found in (
        "thumbnail.jpg: 160 x 107",
        "344 rows",
        "means as computed apart",
        "2 attachments, equal byte for byte",
    ):
        assert found in outcome.stdout
