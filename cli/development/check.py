"""`taskmill check`: runs every check of the source and the deployment files, even if one of them fails."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

STEPS: dict[str, list[str]] = {
    "format": [sys.executable, "-m", "ruff", "format", "--check", "."],
    "lint": [sys.executable, "-m", "ruff", "check", "."],
    "types": [sys.executable, "-m", "mypy"],
    "imports": [sys.executable, "-c", "from importlinter.cli import lint_imports_command as check; check()"],
    "deployment files": [sys.executable, "-m", "deploy.validate"],
}
"""The command of each check, by name. Tools are called as modules, because the scripts of a virtual environment contain its
path, which is wrong after the checkout was moved.
"""


def run_checks() -> int:
    """Run every check, print its output and a summary, and return 1 if one has failed, otherwise 0."""
    outcomes = {name: _run(name, argv) for name, argv in STEPS.items()}
    print()
    for name, has_passed in outcomes.items():
        print(f"{'ok    ' if has_passed else 'FAILED'}  {name}")
    return 0 if all(outcomes.values()) else 1


def _run(name: str, argv: list[str]) -> bool:
    print(f"-- {name}", flush=True)
    began = time.monotonic()
    code = subprocess.run(argv, cwd=_ROOT).returncode
    print(f"-- {name}: {'ok' if code == 0 else f'exit code {code}'}, {time.monotonic() - began:.1f} s", flush=True)
    return code == 0
