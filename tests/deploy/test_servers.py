"""The settings in the compose file are valid for Redis and Postgres."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import psycopg
import redis

from cli.local_stack.broker import find_valkey
from cli.local_stack.child_process import wait_until
from cli.local_stack.free_ports import choose_port
from cli.local_stack.postgres import PostgresServer
from deploy.validate import ROOT, read_compose

PASSWORD = "a-password-of-the-test"


def test_the_broker_requires_its_password_persists_and_never_evicts(tmp_path: Path) -> None:
    # The start command of the container, with folders of the test and with the installed server.
    port = choose_port(None)
    configuration = (ROOT / "deploy" / "redis" / "redis.conf").read_text(encoding="utf-8")
    replacements = {"/run/redis": str(tmp_path), "dir /data": f"dir {tmp_path}", "port 6379": f"port {port}"}
    for old, new in (*replacements.items(), ("bind * -::*", "bind 127.0.0.1")):
        assert old in configuration
        configuration = configuration.replace(old, new)
    (tmp_path / "redis.conf").write_text(configuration, encoding="utf-8")
    service = read_compose()["services"]["redis"]
    command = service["command"][0].replace("$$", "$").replace("/run/redis", str(tmp_path))
    command = command.replace("redis-server /etc/redis/redis.conf", f"{find_valkey()} {tmp_path}/redis.conf")
    process = subprocess.Popen(
        [*service["entrypoint"], command], env={"REDISCLI_AUTH": PASSWORD, "PATH": "/usr/bin:/bin"}
    )
    try:
        with redis.Redis(port=port, password=PASSWORD) as client:
            assert wait_until(lambda: process.poll() is not None or _answers(client), 90)
            settings = client.config_get("appendonly", "maxmemory-policy")
        with redis.Redis(port=port) as stranger:
            assert not _answers(stranger)
        arguments = " ".join(psutil.Process(process.pid).cmdline())
    finally:
        process.terminate()
        process.wait(20)

    assert settings == {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    assert "valkey" in arguments, "the shell has become the server"
    assert PASSWORD not in arguments
    assert (tmp_path / "password.conf").stat().st_mode & 0o077 == 0


def test_postgres_knows_each_of_its_settings(database_url: str, postgres_server: PostgresServer) -> None:
    words = read_compose()["services"]["postgres"]["command"]
    names = [word.partition("=")[0] for word in words if "=" in word]

    with psycopg.connect(database_url) as connection:
        known = {name for (name,) in connection.execute("SELECT name FROM pg_settings")}

    assert len(names) == words.count("-c")
    assert set(names) <= known


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
