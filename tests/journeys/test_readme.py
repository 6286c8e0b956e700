"""The examples in the README work as written, on the whole local stack."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.local_stack.stack import LocalStack

ROOT = Path(__file__).parents[2]
KEY_FILE = "~/.local/share/taskmill/api_key"
ADDRESS = "localhost:8000"


def example(language: str, stack: LocalStack) -> str:
    """Return the README's only example in a language that calls the API, with the stack's address and key file."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if ADDRESS in block]
    address = stack.ready["api_url"].removeprefix("http://")
    return str(block).replace(ADDRESS, address).replace(KEY_FILE, str(stack.data_dir / "api_key"))


def test_the_example_in_python_sends_an_email(stack: LocalStack, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example("python", stack), "README.md", "exec"), {})

    output = capsys.readouterr().out
    assert output.startswith("succeeded ")
    assert "'address': 'zoe@example.com'" in output
    assert "'status': 'accepted'" in output


@pytest.mark.needs_program("curl", debian="curl")
def test_the_example_with_curl_makes_an_image(stack: LocalStack) -> None:
    outcome = subprocess.run(["sh", "-euc", example("sh", stack)], cwd=ROOT, capture_output=True, text=True, check=True)

    task: dict[str, Any] = json.loads(outcome.stdout)
    assert (task["kind"], task["status"]) == ("files.make_images", "succeeded")
    assert [artifact["name"] for artifact in task["artifacts"]] == ["small.webp"]
