"""Each job of `docs/guide.md` works as it stands there, on the whole local stack."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from cli.local_stack.stack import LocalStack

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
URL = "http://localhost:8000"
DATA_DIRECTORY = "~/.local/share/taskmill"


def read_blocks(language: str, stack: LocalStack) -> str:
    """Return the blocks of a language as one program, with the address and the data directory of the stack."""
    blocks = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    jobs = re.findall(r"^## \d+\. ", GUIDE, re.MULTILINE)
    assert len(blocks) == 1 + len(jobs), "each job has one block of each language, after the one that prepares them"
    program = "\n".join(blocks)
    return program.replace(URL, stack.ready["api_url"]).replace(DATA_DIRECTORY, str(stack.data_dir))


def list_expected_lines(program: str) -> list[str]:
    return re.findall(r"# prints: (.*)", program)


@pytest.mark.needs_program("curl", debian="curl")
def test_the_guide_with_curl_prints_what_it_says(stack: LocalStack, tmp_path: Path) -> None:
    program = read_blocks("sh", stack)

    run = subprocess.run(
        ["sh", "-eu", "-c", program],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines() == list_expected_lines(program)
    assert (tmp_path / "small.webp").read_bytes()[8:12] == b"WEBP"


def test_the_guide_with_python_prints_what_it_says(
    stack: LocalStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    program = read_blocks("python", stack)

    exec(compile(program, "guide.md", "exec"), {})

    assert capsys.readouterr().out.splitlines() == list_expected_lines(program)
