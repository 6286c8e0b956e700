"""Limited children. Each test writes the module that its child runs into a folder on the search path."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
from structlog.testing import CapturingLogger

from tests.conftest import stays_true, wait_until_true
from workers.outcomes import Cancelled, Failed
from workers.sandbox import limited_child
from workers.sandbox.confinement import find_confinement
from workers.sandbox.limited_child import ChildLimits, run_limited_child

MEBIBYTE = 1 << 20


class Run(Protocol):
    def __call__(
        self,
        body: str,
        request: Mapping[str, Any] | None = None,
        *,
        memory_bytes: int = 512 * MEBIBYTE,
        wall_seconds: float = 60.0,
        cpu_seconds: int = 20,
        file_bytes: int = MEBIBYTE,
        folder_bytes: int = 64 * MEBIBYTE,
        check: Callable[[], None] = lambda: None,
        report_progress: Callable[[int, str | None], None] = lambda percent, message: None,
        readable: Sequence[Path] = (),
    ) -> dict[str, Any]: ...


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited_children: Callable[[], list[psutil.Process]]
) -> Iterator[Run]:
    """Runs the body of a `run_in_child`, given as source."""
    modules, folder = tmp_path / "modules", tmp_path / "scratch"
    modules.mkdir()
    folder.mkdir()
    monkeypatch.syspath_prepend(str(modules))

    def run_body(
        body: str,
        request: Mapping[str, Any] | None = None,
        *,
        memory_bytes: int = 512 * MEBIBYTE,
        wall_seconds: float = 60.0,
        cpu_seconds: int = 20,
        file_bytes: int = MEBIBYTE,
        folder_bytes: int = 64 * MEBIBYTE,
        check: Callable[[], None] = lambda: None,
        report_progress: Callable[[int, str | None], None] = lambda percent, message: None,
        readable: Sequence[Path] = (),
    ) -> dict[str, Any]:
        source = "def run_in_child(request, report_progress):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (modules / "work_of_a_child.py").write_text(source)
        limits = ChildLimits(memory_bytes, wall_seconds, cpu_seconds, file_bytes, folder_bytes)
        return run_limited_child("work_of_a_child", request or {}, limits, folder, check, report_progress, readable)

    yield run_body
    assert limited_children() == [], "a child was left behind"


def failure_of(run: Run, body: str, **options: object) -> Failed:
    with pytest.raises(Failed) as caught:
        run(body, **options)
    return caught.value


def test_progress_is_reported_before_the_answer_is_returned(run: Run) -> None:
    heard: list[tuple[int, str | None]] = []
    answer = run(
        """
        report_progress(50, "half")
        report_progress(100)
        return {"doubled": request["number"] * 2}
        """,
        {"number": 21},
        report_progress=lambda percent, message: heard.append((percent, message)),
    )
    assert answer == {"doubled": 42}
    assert heard == [(50, "half"), (100, None)]


def test_a_request_larger_than_a_pipe_arrives_whole(run: Run) -> None:
    assert run("return {'length': len(request['text'])}", {"text": "ä" * 3_000_000}) == {"length": 3_000_000}


def test_a_failure_of_the_module_is_raised_with_all_its_fields(run: Run) -> None:
    failed = failure_of(
        run,
        """
        from workers.outcomes import Failed
        raise Failed("/problems/odd", "Odd", "It is.", retryable=True, after_seconds=7.5, data={"why": [1]})
        """,
    )
    assert (failed.type, failed.title, failed.detail) == ("/problems/odd", "Odd", "It is.")
    assert (failed.retryable, failed.after_seconds, failed.data) == (True, 7.5, {"why": [1]})


def test_null_characters_in_answers_and_failures_are_replaced(run: Run) -> None:
    answer = run(r"return {'a\0': ['\0b', {'c': '\0\0'}], 'd': r'\u0000', 'e': [1, None]}")
    failed = failure_of(run, r"from workers.outcomes import Failed; raise Failed('/problems/odd', 'Odd', 'a\0b')")

    assert answer == {"a\ufffd": ["\ufffdb", {"c": "\ufffd\ufffd"}], "d": r"\u0000", "e": [1, None]}
    assert failed.detail == "a\ufffdb"


def test_what_the_module_prints_is_not_mistaken_for_an_answer(run: Run) -> None:
    answer = run(
        """
        import os, sys
        print('{"answer": {"forged": true}}', flush=True)
        os.write(1, b'{"answer": {"forged": true}}\\n')
        subprocess = __import__("subprocess")
        subprocess.run([sys.executable, "-S", "-c", "print('{\\"answer\\": {}}')"], check=True)
        return {"true": True}
        """
    )
    assert answer == {"true": True}


def test_endless_output_on_standard_error_does_not_block_the_child(run: Run) -> None:
    assert run("import sys\nfor _ in range(2000): sys.stderr.write('x' * 5000)\nreturn {}") == {}


def test_an_error_in_the_module_is_logged_without_its_message(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = CapturingLogger()
    monkeypatch.setattr(limited_child, "log", logger)
    failed = failure_of(run, "raise ValueError('the password is 1234')")
    assert (failed.type, failed.retryable) == ("/problems/internal-error", True)
    assert "1234" not in str(failed.detail)
    (logged,) = logger.calls
    assert logged.args == ("limited_child_crashed",)
    assert logged.kwargs["error"] == "ValueError"
    assert logged.kwargs["where"][-1] == "work_of_a_child.py:2 run_in_child"
    assert "1234" not in str(logged)


def test_a_missing_module_is_an_internal_error(run: Run, tmp_path: Path) -> None:
    limits = ChildLimits(512 * MEBIBYTE, 20.0, 20, MEBIBYTE, MEBIBYTE)
    with pytest.raises(Failed, match="/problems/internal-error"):
        run_limited_child("no_such_module", {}, limits, tmp_path, lambda: None, lambda percent, message: None)


def test_an_exit_without_an_answer_is_an_internal_error(run: Run) -> None:
    failed = failure_of(run, "import os; os._exit(3)")
    assert (failed.type, failed.data) == ("/problems/internal-error", {"exit_code": 3})


@pytest.mark.parametrize(
    "message",
    [
        "not json",
        "[]",
        "{}",
        '{"answer": 3}',
        '{"failed": {"type": 1}}',
        '{"failed": {"type": "a", "title": "b", "x": 1}}',
        '{"progress": ["a", "b"]}',
        "[" * 5000,
    ],
)
def test_an_answer_in_another_form_is_an_internal_error(run: Run, message: str) -> None:
    body = """
        import os
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, request["message"].encode() + b"\\n")
            except OSError:
                pass
        return {}
        """
    with pytest.raises(Failed, match="/problems/internal-error"):
        run(body, {"message": message})


def test_an_endless_answer_is_an_internal_error(run: Run) -> None:
    failed = failure_of(run, "return {'text': 'x' * (20 << 20)}")
    assert (failed.type, failed.detail) == (
        "/problems/internal-error",
        "The process that did the work returned too much.",
    )


def test_memory_is_bounded(run: Run) -> None:
    failed = failure_of(run, "data = [bytearray(64 << 20) for _ in range(100)]\nreturn {}")
    assert failed.type == "/problems/out-of-memory"
    assert not failed.retryable


def test_processor_time_is_bounded(run: Run) -> None:
    started = time.monotonic()
    failed = failure_of(run, "while True: pass", cpu_seconds=1, wall_seconds=120)
    assert failed.type == "/problems/timed-out"
    # Well before its wall time is over, which has the same error.
    assert time.monotonic() - started < 60


def test_wall_time_is_bounded(run: Run) -> None:
    started = time.monotonic()
    failed = failure_of(run, "import time; time.sleep(60)", wall_seconds=0.5)
    assert failed.type == "/problems/timed-out"
    assert 0.4 < time.monotonic() - started < 30


def test_wall_time_is_bounded_for_a_child_that_ignores_signals(run: Run) -> None:
    failed = failure_of(
        run,
        """
        import signal, time
        for number in range(1, 64):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        time.sleep(60)
        """,
        wall_seconds=0.5,
    )
    assert failed.type == "/problems/timed-out"


@pytest.mark.parametrize(
    "write",
    [
        "open('large', 'wb').write(b'x' * (2 << 20))",
        "import os; os.posix_fallocate(os.open('large', os.O_RDWR | os.O_CREAT), 0, 2 << 20)",
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); open('large', 'wb').write(b'x' * (2 << 20))",
    ],
)
def test_the_size_of_a_file_is_bounded(run: Run, write: str) -> None:
    failed = failure_of(run, write, file_bytes=MEBIBYTE)
    assert failed.type == "/problems/output-too-large"


WRITE_SIX_MEBIBYTES = """
import os, time
os.makedirs("deep/er")
for number in range(6):
    with open(f"deep/er/{number}", "wb") as file:
        file.write(bytes(1 << 20))
    time.sleep(0.1)
time.sleep(30)
"""


def test_a_folder_that_grows_too_large_ends_the_child(run: Run) -> None:
    failed = failure_of(run, WRITE_SIX_MEBIBYTES, file_bytes=2 * MEBIBYTE, folder_bytes=4 * MEBIBYTE)

    assert (failed.type, failed.retryable) == ("/problems/storage-full", True)
    assert "more than 4 MiB" in str(failed.detail)


def test_what_is_deleted_or_sparse_does_not_fill_the_folder(run: Run) -> None:
    body = """
        import os, time
        for number in range(8):
            with open("passing", "wb") as file:
                file.write(bytes(1 << 20))
            time.sleep(0.1)
        with open("sparse", "wb") as file:
            file.truncate(40 << 20)
        time.sleep(0.5)
        return {}
        """
    assert run(body, file_bytes=64 * MEBIBYTE, folder_bytes=4 * MEBIBYTE) == {}


NO_SPACE = [
    "open('/dev/full', 'wb', buffering=0).write(b'x')",
    "import errno; raise OSError(errno.EDQUOT, 'quota')",
    "raise RuntimeError('IO Error: could not write to t.tmp: No space left on device')",
    """
    from workers.outcomes import Failed
    try:
        open('/dev/full', 'wb', buffering=0).write(b'x')
    except OSError:
        raise Failed('/problems/odd', 'Odd') from None
    """,
    """
    import pyvips
    from workers.handlers.files._pictures import reading_pixels
    with reading_pixels():
        pyvips.Image.black(2000, 2000).tiffsave('/dev/full')
    """,
]


@pytest.mark.parametrize("body", NO_SPACE)
def test_a_full_disk_is_a_named_and_retryable_error(run: Run, body: str) -> None:
    failed = failure_of(run, body)
    assert (failed.type, failed.retryable) == ("/problems/storage-full", True)


def test_open_files_are_bounded(run: Run) -> None:
    body = """
        opened = []
        try:
            while len(opened) < 1000:
                opened.append(open("/dev/null"))
        except OSError as error:
            return {"opened": len(opened), "errno": error.errno}
        """
    answer = run(body)
    assert answer["errno"] == errno.EMFILE
    assert 200 < answer["opened"] < 256


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the limit")
def test_the_memory_of_the_child_cannot_be_dumped(run: Run) -> None:
    answer = run(
        """
        import ctypes, resource
        PR_GET_DUMPABLE = 3
        return {
            "dumpable": ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
            "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[0],
        }
        """
    )
    assert answer == {"dumpable": 0, "core_bytes": 0}


def test_a_module_outside_of_the_search_path_is_found_by_its_package(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "editable_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "work.py").write_text("def run_in_child(request, report_progress):\n    return {'found': True}\n")
    spec = spec_from_file_location(
        "editable_package", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    monkeypatch.setitem(sys.modules, "editable_package", module_from_spec(spec))

    limits = ChildLimits(512 * MEBIBYTE, 20.0, 20, MEBIBYTE, MEBIBYTE)
    answer = run_limited_child(
        "editable_package.work", {}, limits, tmp_path, lambda: None, lambda percent, message: None
    )

    assert answer == {"found": True}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_signals_that_ask_a_process_to_end_do_not_end_the_child(run: Run, name: str) -> None:
    answer = run(f"import os, signal; os.kill(os.getpid(), signal.{name}); return {{'alive': True}}")
    assert answer == {"alive": True}


def test_a_death_by_another_signal_is_an_internal_error(run: Run) -> None:
    failed = failure_of(run, "import os, signal; os.kill(os.getpid(), signal.SIGUSR1)")
    assert (failed.type, failed.retryable) == ("/problems/internal-error", True)
    assert failed.data == {"signal": signal.SIGUSR1}


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS", "SIGTRAP"])
def test_a_crash_counts_as_out_of_memory_and_names_its_signal(run: Run, name: str) -> None:
    failed = failure_of(run, f"import os, signal; os.kill(os.getpid(), signal.{name})")
    assert failed.type == "/problems/out-of-memory"
    assert failed.data == {"signal": getattr(signal, name)}


def test_cancelling_ends_the_child_at_once(run: Run) -> None:
    started = time.monotonic()

    def check() -> None:
        if time.monotonic() - started > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run("import time; time.sleep(60)", check=check)
    assert time.monotonic() - started < 30


def test_cancelling_while_progress_is_reported_ends_the_child(run: Run) -> None:
    def report(percent: int, message: str | None) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run("import time; report_progress(1); time.sleep(60)", report_progress=report)


def test_processes_that_the_child_started_end_with_it(run: Run, tmp_path: Path) -> None:
    noted = tmp_path / "scratch" / "pids"
    run(
        """
        import os, time
        for _ in range(3):
            if os.fork() == 0:
                with open(request["noted"], "a") as file:
                    file.write(f"{os.getpid()}\\n")
                time.sleep(60)
        while not os.path.exists(request["noted"]) or open(request["noted"]).read().count("\\n") < 3:
            time.sleep(0.01)
        return {}
        """,
        {"noted": str(noted)},
    )
    pids = [int(line) for line in noted.read_text().split()]
    assert len(pids) == 3
    wait_until_true(lambda: not any(is_alive(pid) for pid in pids))


def test_a_child_that_ends_while_children_are_listed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, limited_children: Callable[[], list[psutil.Process]]
) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        seen = psutil.Process(child.pid)
        assert limited_children() == [seen]
        child.kill()
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive=False: [seen])

    assert limited_children() == []


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_child_inherits_no_open_file_and_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKMILL_SECRET_KEY", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        answer = run(
            """
            import os
            files = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n != "3"
                     and os.path.exists(f"/proc/self/fd/{n}")]
            return {"files": sorted(files), "environment": dict(os.environ)}
            """
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert len(answer["files"]) <= 4
    assert all(name.startswith("pipe:") for name in answer["files"])
    assert "hush" not in str(answer["environment"])
    assert {name for name in answer["environment"] if name.startswith("TASKMILL")} == set()


def test_nothing_is_left_open_in_the_worker(run: Run) -> None:
    run("return {}")
    # What other tests left to the collector would close meanwhile.
    gc.collect()
    before = psutil.Process().num_fds()
    for _ in range(5):
        run("return {}")
        failure_of(run, "import os; os._exit(1)")
    assert psutil.Process().num_fds() == before


def test_the_child_has_a_low_priority_and_is_killed_first(run: Run) -> None:
    answer = run("import os; return {'nice': os.nice(0), 'score': open('/proc/self/oom_score_adj').read().strip()}")
    assert answer["nice"] >= min(19, os.nice(0) + 5)
    assert answer["score"] == "1000"


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no such flag")
def test_the_child_cannot_gain_rights_by_another_program(run: Run) -> None:
    answer = run("return {'status': open('/proc/self/status').read()}")

    assert "NoNewPrivs:\t1" in answer["status"]


WORKER = """
import sys, threading
from pathlib import Path
from workers.sandbox.limited_child import ChildLimits, run_limited_child

def work():
    limits = ChildLimits(512 << 20, 60.0, 60, 1 << 20, 1 << 20)
    say = lambda percent, message: print(percent, flush=True)
    run_limited_child("work_of_a_child", {}, limits, Path(sys.argv[1]), lambda: None, say)

# A pool's thread starts the child, as it does in a worker, and one that has ended started another before it.
first = threading.Thread(target=lambda: None); first.start(); first.join()
threading.Thread(target=work).start()
"""


def test_the_child_ends_when_its_worker_is_killed_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "work_of_a_child.py").write_text(
        "import os, time\ndef run_in_child(request, report_progress):\n"
        "    report_progress(os.getpid())\n    time.sleep(600)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    try:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        assert stays_true(lambda: is_alive(child), 1.0)
    finally:
        worker.kill()
        worker.communicate()
    wait_until_true(lambda: not is_alive(child))


# In CI they run whatever the kernel has, so that a lost confinement is not overlooked.
IS_CI = bool(os.environ.get("CI"))
confined_files = pytest.mark.skipif(not (find_confinement().files or IS_CI), reason="this kernel has no Landlock")
confined_network = pytest.mark.skipif(not (find_confinement().network or IS_CI), reason="it has no seccomp filters")
TRY = """
import os, socket
def attempt():
    {body}
try:
    return {{"result": repr(attempt())}}
except OSError as error:
    return {{"result": error.strerror}}
"""


def attempt(run: Run, body: str, request: Mapping[str, Any] | None = None, readable: Sequence[Path] = ()) -> str:
    result: str = run(TRY.format(body=body), request, readable=readable)["result"]
    return result


@confined_files
@pytest.mark.parametrize(
    "body",
    [
        "return open('/etc/passwd').read(1)",
        "return open(request['path']).read(1)",
        "return open(request['path'], 'a')",
        "return os.rename(request['path'], 'here')",
        "return os.link(request['path'], 'here')",
        "return os.listdir('/root')",
        "return os.kill(os.getppid(), 0)",
        "return open(f'/proc/{os.getppid()}/environ').read(1)",
    ],
)
def test_a_child_does_not_reach_what_is_not_its_own(run: Run, tmp_path: Path, body: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")

    assert attempt(run, body, {"path": str(secret)}) in {
        os.strerror(number) for number in (errno.EACCES, errno.EPERM, errno.EXDEV)
    }
    assert secret.read_text() == "secret"


@confined_files
def test_a_child_reads_and_never_writes_the_files_that_it_is_given(tmp_path: Path, run: Run) -> None:
    given = tmp_path / "given"
    given.write_text("content")

    assert attempt(run, "return open(request['path']).read()", {"path": str(given)}, [given]) == "'content'"
    assert attempt(run, "return open(request['path'], 'w')", {"path": str(given)}, [given]) == os.strerror(errno.EACCES)


@confined_files
def test_a_checkout_on_the_search_path_shows_its_packages_only(run: Run) -> None:
    root = str(Path(__file__).parents[3])

    assert (
        attempt(run, "return bool(open(request['root'] + '/workers/__init__.py').read(0) == '')", {"root": root})
        == "True"
    )
    assert attempt(run, "return open(request['root'] + '/pyproject.toml').read(1)", {"root": root}) == os.strerror(
        errno.EACCES
    )


@confined_files
def test_packages_are_found_through_a_link_to_them(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, environment = tmp_path / "elsewhere" / "site-packages", tmp_path / "environment"
    (packages / "linked_package").mkdir(parents=True)
    (packages / "linked_package" / "__init__.py").write_text("from linked_package.data import NAME")
    (packages / "linked_package" / "data.py").write_text("NAME = 'linked'")
    environment.mkdir()
    (environment / "site-packages").symlink_to(packages)
    monkeypatch.syspath_prepend(str(environment / "site-packages"))
    monkeypatch.setattr(sys, "prefix", str(environment))

    assert run("import linked_package; return {'name': linked_package.NAME}") == {"name": "linked"}


@confined_network
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"])
def test_a_child_opens_no_socket(run: Run, family: str) -> None:
    assert attempt(run, f"return socket.socket(socket.{family}, socket.SOCK_DGRAM)") == os.strerror(errno.EACCES)


@confined_network
def test_what_a_child_starts_is_confined_too(run: Run) -> None:
    code = "import socket; socket.socket()"
    body = f"import subprocess, sys; return subprocess.run([sys.executable, '-c', '{code}'], capture_output=True).stderr[-60:]"

    assert "Permission denied" in attempt(run, body)
