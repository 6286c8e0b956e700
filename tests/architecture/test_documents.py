"""The documents, and the comments of the source, name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("api", "cli", "deploy", "migrations", "shared", "taskmill_kinds", "tests", "workers")
NAMED_FILE = re.compile(
    rf"`((?:\.\./)*(?:{'|'.join((*SOURCE_FOLDERS, 'docs'))})/[\w./-]+\.(?:conf|csv|ini|jpg|json|md|pdf|py|toml|ts|yml))`"
)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def test_documents_link_only_to_files_that_exist() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]

    dead = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in LINK.findall(document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]

    assert dead == []


def test_documents_and_comments_name_only_files_that_exist() -> None:
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    texts += [path for folder in SOURCE_FOLDERS for path in ROOT.glob(f"{folder}/**/*.py")]

    dead = [
        f"{text.relative_to(ROOT)}: {name}"
        for text in texts
        for name in NAMED_FILE.findall(text.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]

    assert dead == []


def test_documents_name_only_tests_that_exist() -> None:
    named = {
        (file, name)
        for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
        for file, name in NAMED_TEST.findall(document.read_text(encoding="utf-8"))
    }

    dead = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not (ROOT / file).exists() or f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]

    assert named
    assert dead == []
