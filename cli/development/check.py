"""`taskmill check`: format, lint, types, import rules and the deployment files, all of them, whichever fail."""

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
"""What is run, in the checkout, by name. The tools are called as modules: a script's first line holds a path, which a
checkout that was moved has no more.
"""


def run_checks() -> int:
    """Run every step, print what each says, and sum up; 1 when one has failed, or else 0."""
    outcomes = {name: _run(name, argv) for name, argv in STEPS.items()}
    print()
    for name, is_right in outcomes.items():
        print(f"{'ok    ' if is_right else 'FAILED'}  {name}")
    return 0 if all(outcomes.values()) else 1


def _run(name: str, argv: list[str]) -> bool:
    print(f"-- {name}", flush=True)
    began = time.monotonic()
    code = subprocess.run(argv, cwd=_ROOT).returncode
    print(f"-- {name}: {'ok' if code == 0 else f'exit code {code}'}, {time.monotonic() - began:.1f} s", flush=True)
    return code == 0
