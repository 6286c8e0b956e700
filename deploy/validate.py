"""Checks the files that bring Taskmill into production: `python -m deploy.validate`.

It needs neither Docker nor a network. hadolint checks the Dockerfile, the schema of the Compose Specification the compose
file, the schema of GitHub workflows the workflow, and `nginx -t` the configuration of nginx; this module checks the rest. A
tool that is not installed is an error if the variable CI is set, and is otherwise only reported.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import typer
import yaml

ROOT = Path(__file__).resolve().parent.parent
COMPOSE_FILE = ROOT / "docker-compose.prod.yml"
PROCFILE = ROOT / "Procfile"
NGINX_FOLDER = ROOT / "deploy" / "nginx"

ONE_SHOT_SERVICES = frozenset({"migrate"})
"""Services that end when they are done. They have an exit code, and neither a health check nor a restart policy."""
OPEN_NETWORKS = {"edge": {"nginx"}, "outward": {"api", "worker-email", "worker-webhooks"}}
"""The networks with access to the outside, and the only services that may be on them."""

OWNER_URL = "TASKMILL_DATABASE_OWNER_URL"


class ToolMissing(Exception):
    """A program that a check runs is not installed. The message names it."""


def check_dockerfile() -> Iterator[str]:
    """Yield what hadolint reports about the Dockerfile. Raises `ToolMissing`."""
    yield from _run(_find_tool("hadolint"), "--no-color", str(ROOT / "Dockerfile"))


def check_compose_schema() -> Iterator[str]:
    """Yield where the compose file differs from the Compose Specification. check-jsonschema includes its schema."""
    schema = "vendor.compose-spec"
    yield from _run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(COMPOSE_FILE))


def check_workflow() -> Iterator[str]:
    """Yield where the workflow for GitHub differs from the schema of workflows."""
    schema, workflow = "vendor.github-workflows", ROOT / ".github" / "workflows" / "ci.yml"
    yield from _run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(workflow))


def check_compose_rules() -> Iterator[str]:
    """Yield each service that can be reached, has no limits, or is not restarted, although it must not be so."""
    compose = read_compose()
    for name, service in compose["services"].items():
        networks = set(service.get("networks", []))
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if name != "nginx" and service.get("ports"):
            yield f"{name} publishes a port: only nginx may"
        if not networks:
            yield f"{name} names no network, so it is on the default one"
        for network, members in OPEN_NETWORKS.items():
            if network in networks and name not in members:
                yield f"{name} is on the network {network}, which has access to the outside"
        if service.get("network_mode") or service.get("privileged"):
            yield f"{name} is not isolated from the machine"
        for missing in sorted({"cpus", "memory", "pids"} - set(limits)):
            yield f"{name} has no limit of {missing}"
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            yield f"{name} may write to its image, or has capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name} may gain privileges"
        if not service.get("logging", {}).get("options", {}).get("max-size"):
            yield f"{name} may fill the disk with its log"
        if name in ONE_SHOT_SERVICES:
            continue
        if not service.get("healthcheck", {}).get("test"):
            yield f"{name} has no health check"
        if "pids_limit" not in service:
            yield f"{name} has no limit of processes"
        if service.get("restart") not in {"unless-stopped", "always"}:
            yield f"{name} is not restarted"
        if "stop_grace_period" not in service:
            yield f"{name} has no time to stop (stop_grace_period)"
    for network, definition in compose["networks"].items():
        if network not in OPEN_NETWORKS and not (definition or {}).get("internal"):
            yield f"the network {network} has access to the outside"


def check_settings_are_passed_on() -> Iterator[str]:
    """Yield settings that no container gets, variables that are not settings, and services with the owner's URL."""
    from shared.settings import Settings

    known = {f"TASKMILL_{field.upper()}" for field in Settings.model_fields}
    services = read_compose()["services"]
    having = {name: service.get("environment", {}) for name, service in services.items()}
    passed_on = {name for names in having.values() for name in names if name.startswith("TASKMILL_")}
    for service in sorted(name for name, names in having.items() if OWNER_URL in names and name != "migrate"):
        yield f"{service} has {OWNER_URL}, which only migrate may have"
    for name in sorted(known - passed_on):
        yield f"docker-compose.prod.yml does not pass {name} on"
    for name in sorted(passed_on - known):
        yield f"docker-compose.prod.yml passes {name} on, which is not a setting"


def check_procfile() -> Iterator[str]:
    """Yield each line of the Procfile that is not a command of Taskmill."""
    for name, words in read_procfile().items():
        if words[0] != "./taskmill":
            yield f"Procfile: {name} does not call ./taskmill"
        elif complaint := _find_command_error(words[1:]):
            yield f"Procfile: {name}: {complaint}"


def check_commands_agree() -> Iterator[str]:
    """Yield each part that the compose file and the Procfile start with different commands, apart from the address."""
    in_procfile = {name: _without_host(words[1:]) for name, words in read_procfile().items()}
    in_procfile["migrate"] = in_procfile.pop("release", [])
    in_compose = {
        name: _without_host(service["command"])
        for name, service in read_compose()["services"].items()
        if str(service["image"]).startswith("taskmill:")
    }
    for name in sorted(in_procfile.keys() | in_compose.keys()):
        if in_procfile.get(name) != in_compose.get(name):
            yield f"{name} is {in_procfile.get(name)} in the Procfile and {in_compose.get(name)} in the compose file"


def check_nginx() -> Iterator[str]:
    """Yield what nginx reports about its configuration, with HTTP and with HTTPS. Raises `ToolMissing`."""
    nginx, openssl = _find_tool("nginx"), _find_tool("openssl")
    for listen in sorted(path.name for path in NGINX_FOLDER.glob("listen-*.conf")):
        with tempfile.TemporaryDirectory() as folder:
            prefix = Path(folder)
            copy_nginx_configuration(prefix, listen)
            if "https" in listen:
                yield from _make_certificate(openssl, prefix / "certificates")
            for line in _run(nginx, "-t", "-q", "-p", folder, "-c", "nginx.conf", "-e", "stderr"):
                yield f"{listen}: {line}"


def copy_nginx_configuration(prefix: Path, listen: str, replacements: dict[str, str] | None = None) -> None:
    """Copy the configuration, with one of the `listen-….conf`, to a folder that can be the prefix of nginx.

    nginx writes its files there too. Each key of `replacements`, such as an address, is replaced by its value.
    """
    (prefix / "certificates").mkdir()
    for path in NGINX_FOLDER.glob("*.conf"):
        text = path.read_text(encoding="utf-8").replace("/tmp/", f"{prefix}/")  # noqa: S108 - it is the text replaced
        for old, new in (replacements or {}).items():
            text = text.replace(old, new)
        if not path.name.startswith("listen-"):
            (prefix / path.name).write_text(text, encoding="utf-8")
        elif path.name == listen:
            (prefix / "listen.conf").write_text(text, encoding="utf-8")


def read_compose() -> dict[str, Any]:
    """Return the compose file with merged anchors. Variables are not replaced."""
    compose: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))
    return compose


def read_procfile() -> dict[str, list[str]]:
    """Return the words of each command, by the name of its process."""
    lines = PROCFILE.read_text(encoding="utf-8").splitlines()
    entries = (line.partition(":") for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): shlex.split(command) for name, _, command in entries}


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "Dockerfile: hadolint": check_dockerfile,
    "compose file: schema": check_compose_schema,
    "compose file: rules": check_compose_rules,
    "compose file: settings": check_settings_are_passed_on,
    "Procfile": check_procfile,
    "Procfile and compose file agree": check_commands_agree,
    "nginx": check_nginx,
    "GitHub workflow": check_workflow,
}


def main() -> int:
    """Run every check, print its findings, and return 1 if one has failed, and 0 otherwise."""
    has_failed = False
    for name, check in CHECKS.items():
        try:
            complaints = list(check())
        except ToolMissing as error:
            complaints = [str(error)] if os.environ.get("CI") else []
            outcome = "FAILED" if complaints else f"not checked: {error}"
        else:
            outcome = "FAILED" if complaints else "ok"
        has_failed = has_failed or bool(complaints)
        sys.stdout.write(f"{name}: {outcome}\n" + "".join(f"    {complaint}\n" for complaint in complaints))
    return int(has_failed)


def _find_command_error(words: list[str]) -> str | None:
    """Return why the `taskmill` command does not accept these words, or None. Nothing is run."""
    from cli.main import app

    command: Any = typer.main.get_command(app)
    name = "taskmill"
    words = list(words)
    while isinstance(getattr(command, "commands", None), dict):
        name = words.pop(0) if words else ""
        if name not in command.commands:
            return f"there is no command {name!r}"
        command = command.commands[name]
    try:
        command.make_context(name, words)
    except (click.ClickException, typer.Exit) as error:
        return str(error)
    except Exception as error:
        # The parser that typer contains raises errors that are not those of click.
        return f"{type(error).__name__}: {error}"
    return None


def _without_host(words: list[str]) -> list[str]:
    if "--host" not in words:
        return words
    position = words.index("--host")
    return words[:position] + words[position + 2 :]


def _make_certificate(openssl: str, folder: Path) -> Iterator[str]:
    key, certificate = str(folder / "server.key"), str(folder / "server.crt")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", key)
    yield from _run(openssl, "req", "-x509", *new_key, "-out", certificate, "-subj", "/CN=localhost", "-days", "2")


def _find_tool(name: str) -> str:
    places = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    found = shutil.which(name, path=places)
    if found is None:
        raise ToolMissing(f"{name} is not installed")
    return found


def _run(*argv: str) -> Iterator[str]:
    """Yield each line that a tool prints when it fails."""
    finished = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if finished.returncode != 0:
        said = (finished.stdout + finished.stderr).strip() or f"{Path(argv[0]).name} ended with {finished.returncode}"
        yield from said.splitlines()


if __name__ == "__main__":
    sys.exit(main())
