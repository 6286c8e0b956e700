"""Installs the packages of the peers into `.venv-bench` in the checkout, when needed. The project does not depend on them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from taskmill_bench.processes import BENCHMARKS, ROOT, BenchFailed

ENVIRONMENT = ROOT / ".venv-bench"
PEER_PYTHON = ENVIRONMENT / "bin" / "python"
NODE_MODULES = ENVIRONMENT / "node"
LOCK = BENCHMARKS / "requirements.lock"
NODE_PACKAGES = ("bullmq@6.7.0", "ioredis@5.11.1")
"""Exact versions instead of a lock file, which would contain the host name of the registry."""
INSTALL_LIMIT_SECONDS = 600


def prepare_python() -> None:
    """Install the packages of the lock, unless they are installed. Raises `BenchFailed`."""
    stamp = ENVIRONMENT / ".installed-requirements.lock"
    if stamp.exists() and stamp.read_bytes() == LOCK.read_bytes():
        return
    _say("installing the peers' packages into .venv-bench")
    venv.create(ENVIRONMENT, with_pip=True)
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps"]
    _run(
        [PEER_PYTHON, "-m", "pip", "install", *options, "--requirement", LOCK],
        "the peers' packages could not be installed",
    )
    stamp.write_bytes(LOCK.read_bytes())


def find_why_not_node() -> str | None:
    """Return why BullMQ cannot be measured here, or None if it can."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    return f"{' and '.join(missing)} not found" if missing else None


def prepare_node() -> None:
    """Install BullMQ, unless it is installed. Raises `BenchFailed`."""
    stamp = NODE_MODULES / ".installed"
    wanted = "\n".join(NODE_PACKAGES)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    _say("installing BullMQ into .venv-bench/node")
    NODE_MODULES.mkdir(parents=True, exist_ok=True)
    (NODE_MODULES / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    options = ["--no-package-lock", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    _run(["npm", "install", "--prefix", NODE_MODULES, *options, *NODE_PACKAGES], "BullMQ could not be installed")
    stamp.write_text(wanted, encoding="utf-8")


def _run(argv: list[str | Path], failure: str) -> None:
    try:
        outcome = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=INSTALL_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise BenchFailed(f"{failure} within {INSTALL_LIMIT_SECONDS} s") from None
    if outcome.returncode != 0:
        raise BenchFailed(f"{failure}; the reason stands above")


def _say(text: str) -> None:
    print(f"taskmill: {text}", file=sys.stderr, flush=True)
