"""The schema works with generators of API clients: one for Python, whose client calls every route, and one for TypeScript."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.conftest import Api
from tests.needed_programs import GENERATORS, find_program

SOURCES = Path(__file__).parent / "generators"
INSTALL = "tests/api/openapi/generators/install"


@pytest.fixture(scope="module")
def schema_file(nobody: httpx2.Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "openapi.json"
    path.write_bytes(nobody.get("/openapi.json").content)
    return path


def run(*command: str | Path, folder: Path, env: dict[str, str] | None = None) -> str:
    """Run a generator or what it generated; return its output. Fails with the output when the exit code is not 0."""
    paths = os.pathsep.join([str(GENERATORS / "bin"), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": paths, "HOME": str(folder), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.needs_program("openapi-python-client", install=INSTALL)
def test_a_generated_python_client_can_call_every_route(served: Api, schema_file: Path) -> None:
    generator = find_program("openapi-python-client")
    assert generator is not None
    folder = schema_file.parent

    output = run(generator, "generate", "--path", schema_file, "--output-path", folder / "python", folder=folder)
    run(
        Path(generator).resolve().with_name("python"),
        SOURCES / "call_every_route.py",
        served.url,
        served.key("generated").key,
        folder=folder,
        env={"PYTHONPATH": str(folder / "python")},
    )

    assert "WARNING" not in output.upper()


@pytest.mark.needs_program("openapi-typescript", "tsc", install=INSTALL)
def test_generated_typescript_types_compile_in_a_program(schema_file: Path) -> None:
    generator, compiler = find_program("openapi-typescript"), find_program("tsc")
    assert generator is not None and compiler is not None
    folder = schema_file.parent
    shutil.copy(SOURCES / "use_types.ts", folder)

    run(generator, schema_file, "--output", folder / "taskmill.d.ts", folder=folder)
    run(compiler, "--noEmit", "--strict", "--target", "es2022", "use_types.ts", folder=folder)
