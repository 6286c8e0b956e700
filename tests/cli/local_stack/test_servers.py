from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli.local_stack.broker import BrokerServer
from cli.local_stack.owned_files import read_memory, write_memory
from cli.local_stack.postgres import PostgresServer
from cli.local_stack.process_identity import identify, wait_until_gone
from shared.errors import ConfigurationError
from tests.conftest import wait_until_true


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("a space in it") / "postgres", fast=True) as server:
        yield server


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerServer]:
    with BrokerServer(tmp_path / 'a space and a "quote"') as server:
        yield server


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can pass through, unlike pytest's own, so that root's cluster lies inside too."""
    folder = Path(tempfile.mkdtemp(prefix="taskmill-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def interrupted_initdb(argv: list[str], **arguments: object) -> None:
    """Leave what initdb has written by the time that it runs its first program."""
    cluster = Path(argv[argv.index("--pgdata") + 1])
    (cluster / "base").mkdir()
    (cluster / "PG_VERSION").write_text("18\n")
    raise KeyboardInterrupt


def test_what_was_committed_survives_a_kill(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    before = postgres.url

    postgres.kill()
    postgres.start()

    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert postgres.url == before


def test_a_backend_that_outlives_its_postmaster_is_ended_before_the_next_start(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        backend = identify(connection.info.backend_pid)
        assert backend is not None
        assert postgres.pid is not None
        # Stopped, it cannot notice that the postmaster is gone, as one in a long computation would not.
        os.kill(backend.pid, signal.SIGSTOP)
        postmaster = psutil.Process(postgres.pid)
        postmaster.kill()
        wait_until_true(lambda: not postmaster.is_running() or postmaster.status() == psutil.STATUS_ZOMBIE)
        postgres.start()
        assert wait_until_gone([backend], limit_seconds=60)
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pid_file_with_the_pid_of_another_process_does_not_prevent_the_start(postgres: PostgresServer) -> None:
    postgres.stop()
    # The pid of this process: it is alive, as another process with the stored pid may be after a restart of the machine.
    (postgres.cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{postgres.cluster}\n")

    postgres.start()

    assert postgres.is_ready()


def test_tcp_and_socket_require_the_password(postgres: PostgresServer) -> None:
    wrong = postgres.url.replace(postgres.url.split(":")[2].split("@")[0], "wrong")

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_the_password_is_in_no_argument_and_no_readable_file(postgres: PostgresServer) -> None:
    password = postgres.url.split(":")[2].split("@")[0]
    memory = postgres.directory / "server.json"

    assert password in memory.read_text()
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert password not in " ".join(postgres.command().argv)


def test_two_clusters_run_at_once(postgres: PostgresServer, tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "other", fast=True) as other:
        assert other.url != postgres.url
        with psycopg.connect(other.url) as connection:
            assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)


def test_an_interrupted_initdb_is_repeated(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", fast=True)
    with patch("cli.local_stack.postgres.subprocess.run", interrupted_initdb), pytest.raises(KeyboardInterrupt):
        server.start()
    assert (server.cluster / "PG_VERSION").exists()

    with PostgresServer(tmp_path / "postgres", fast=True) as again:
        assert again.is_ready()


def test_a_copy_of_the_folder_has_its_own_cluster_and_server(open_folder: Path) -> None:
    with PostgresServer(open_folder / "postgres", fast=True) as original:
        pass
    subprocess.run(["cp", "-a", open_folder / "postgres", open_folder / "copy"], check=True)

    with original, PostgresServer(open_folder / "copy", fast=True) as copy:
        with psycopg.connect(copy.url) as connection:
            connection.execute("CREATE TABLE of_the_copy ()")
        sockets = list(Path(read_memory(open_folder / "postgres" / "server.json")["socket_folder"]).glob(".s.PGSQL.*"))
        copy.stop()

        assert original.is_ready()
        with psycopg.connect(original.url) as connection:
            assert connection.execute("SELECT to_regclass('of_the_copy')").fetchone() == (None,)
        assert sockets
        assert all(socket_path.exists() for socket_path in sockets)
        PostgresServer(open_folder / "copy").remove()
        assert original.cluster.exists()


@pytest.mark.parametrize("is_of_older_version", [False, True])
def test_a_moved_folder_keeps_its_cluster(open_folder: Path, is_of_older_version: bool) -> None:
    with PostgresServer(open_folder / "postgres", fast=True) as server, psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept ()")
    if is_of_older_version:
        memory = read_memory(open_folder / "postgres" / "server.json")
        del memory["place"]
        write_memory(
            open_folder / "postgres" / "server.json", memory | {"cluster": str(open_folder / "postgres" / "cluster")}
        )
    (open_folder / "postgres").rename(open_folder / "moved")

    with PostgresServer(open_folder / "moved", fast=True) as moved, psycopg.connect(moved.url) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == ("kept",)


def test_a_missing_cluster_is_a_configuration_error(open_folder: Path) -> None:
    write_memory(open_folder / "server.json", {"cluster": "cluster", "initialised": True})

    with pytest.raises(ConfigurationError, match="is missing"):
        PostgresServer(open_folder).start()


def test_a_killed_broker_keeps_what_it_had_written_to_its_file(broker: BrokerServer) -> None:
    with redis.Redis.from_url(broker.url) as client:
        client.set("kept", "yes")
        wait_until_true(lambda: client.info("persistence")["aof_buffer_length"] == 0)

    broker.kill()
    broker.start()

    assert redis.Redis.from_url(broker.url).get("kept") == b"yes"


def test_the_broker_requires_the_password_and_evicts_nothing(broker: BrokerServer) -> None:
    client = redis.Redis.from_url(broker.url)
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}

    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=broker.port, retry=Retry(NoBackoff(), 0)).ping()


def test_a_broker_whose_port_was_taken_uses_another(broker: BrokerServer) -> None:
    broker.stop()
    with socket.create_server(("127.0.0.1", broker.port)):
        taken = broker.port
        broker.start()

    assert broker.port != taken
    assert broker.is_ready()
