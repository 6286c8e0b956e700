"""The settings of the parts of a local stack, which depend on the environment of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.local_stack import part_account, unprivileged_account
from cli.local_stack.account_python import PartPython
from cli.local_stack.broker import BrokerServer
from cli.local_stack.data_directory import DataDirectory
from cli.local_stack.free_ports import choose_port, is_of_this_machine
from cli.local_stack.plan import StackPlan

MakePlan = Callable[..., StackPlan]


@pytest.fixture
def make_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePlan]:
    """Makes a plan whose servers are all the user's own, in an environment that also has the given variables."""
    for name in ("DATABASE", "BROKER", "SMTP"):
        monkeypatch.setenv(f"TASKMILL_{name}_URL", f"{name.lower()}://of-the-user")
    monkeypatch.setattr(unprivileged_account, "SYSTEM_STATE_FOLDER", tmp_path / "system")
    # Copying Python for the account takes a second, and decides nothing here.
    monkeypatch.setattr(part_account, "find_python", lambda account: PartPython())
    with DataDirectory(tmp_path) as directory:

        def make(host: str = "127.0.0.1", **environment: str) -> StackPlan:
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            plan = StackPlan(directory, host)
            plan.choose_ports(0)
            plan.settle_environment()
            return plan

        yield make


def get_setting(plan: StackPlan, name: str) -> str | None:
    return plan.first_steps().command.environment.get(name)


@pytest.mark.parametrize(("given", "told"), [("60", "8.0"), ("2.5", "2.5"), ("soon", "soon")])
def test_the_grace_of_workers_is_limited_to_that_of_the_stack(make_plan: MakePlan, given: str, told: str) -> None:
    plan = make_plan(TASKMILL_SHUTDOWN_GRACE_SECONDS=given)

    assert get_setting(plan, "TASKMILL_SHUTDOWN_GRACE_SECONDS") == told


def test_settings_that_the_user_does_not_set_keep_their_defaults(make_plan: MakePlan) -> None:
    plan = make_plan()

    assert get_setting(plan, "TASKMILL_SHUTDOWN_GRACE_SECONDS") is None


@pytest.mark.parametrize(
    ("host", "given", "told"),
    [
        ("127.0.0.1", "tasks.example.com", "tasks.example.com,127.0.0.1,localhost"),
        ("0.0.0.0", "localhost", "localhost,127.0.0.1"),
        ("::1", "tasks.example.com", "tasks.example.com,[::1],localhost"),
    ],
)
def test_the_host_of_the_stack_is_an_allowed_host(make_plan: MakePlan, host: str, given: str, told: str) -> None:
    if not is_of_this_machine(host):
        pytest.skip(f"this machine has no {host}")

    plan = make_plan(host, TASKMILL_ALLOWED_HOSTS=given)

    assert get_setting(plan, "TASKMILL_ALLOWED_HOSTS") == told


def test_no_two_uses_get_the_same_port(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Every second port that is drawn equals the one before.
    draws = (20_000 + n // 2 for n in range(24_000))
    monkeypatch.setattr("cli.local_stack.free_ports.random.choice", lambda _: next(draws))
    plan = make_plan()
    assert plan.broker is None
    broker = BrokerServer(tmp_path / "broker", plan.promised)
    broker.prepare()
    plan.broker_part(broker)
    postgres_port = choose_port(promised=plan.promised)

    ports = [*plan.ports.values(), broker.port, postgres_port]
    assert len(set(ports)) == len(ports) == 6


def test_a_port_that_two_uses_remember_goes_to_one_of_them(tmp_path: Path) -> None:
    port = choose_port()
    with DataDirectory(tmp_path / "other") as directory:
        directory.remember("flower_port", port)
        directory.remember("smtp_port", port)
        plan = StackPlan(directory, "127.0.0.1")
        plan.choose_ports(0)

    assert plan.ports["flower"] == port
    assert plan.ports["smtp"] != port
