"""The image contains every package that runs in production."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"api", "cli", "migrations", "shared", "taskmill_kinds", "workers"}


def list_copied() -> set[str]:
    """Return what the Dockerfile copies from the repository."""
    lines = re.findall(r"^COPY ((?!--from).*)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    return {source for line in lines for source in line.split()[:-1]}


def test_the_image_contains_every_package() -> None:
    assert list_copied() >= PACKAGES


def test_what_the_dockerfile_copies_is_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert {line[1:] for line in lines if line.startswith("!")} == list_copied()
