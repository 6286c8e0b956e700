"""Workflows of a few shapes, and how their steps must end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

_VARIANTS: Final = [{"name": name, "width": 32, "format": "jpeg"} for name in ("a", "b")]
_MOST_ATTEMPTS: Final = 25
"""How many attempts a step has: the faults must not fail it."""


class Workflow(NamedTuple):
    """The steps of a workflow, the status in which it must end, and those in which the tasks of each step must end."""

    steps: list[dict[str, Any]]
    status: str
    ends: dict[str, list[str]]


def make_workflows(image_id: str) -> dict[str, Workflow]:
    """Return a workflow of each shape, by its name. The file is an image."""
    late = {"name": "late", "kind": "platform.ping", "params": {"sleep_ms": 3000}, "timeout": 1, "max_attempts": 1}
    cut = _step("cut", "files.make_images", {"file_id": image_id, "variants": _VARIANTS})
    inspect = _step("inspect", "files.inspect", {"file_id": {"$from": "item.id"}})
    return {
        "chain": _all_succeed([_ping("a", "b"), _ping("b", {"$from": "a.result.echo"}), _ping("c", "", after=["b"])]),
        "diamond": _all_succeed(
            [_ping("a"), _ping("b", after=["a"]), _ping("c", after=["a"]), _ping("d", after=["b", "c"])]
        ),
        "for-each": _all_succeed(
            [cut, {**inspect, "for_each": {"$from": "cut.artifacts"}}, _ping("last", {"$from": "inspect.status"})],
            inspect=["succeeded"] * len(_VARIANTS),
        ),
        "continue": _all_succeed(
            [{**late, "on_failure": "continue"}, _ping("last", {"$from": "late.status"})], late=["failed"]
        ),
        "fail": Workflow([late, _ping("last", after=["late"])], "failed", {"late": ["failed"], "last": ["cancelled"]}),
    }


def _all_succeed(steps: list[dict[str, Any]], **other_ends: list[str]) -> Workflow:
    return Workflow(steps, "succeeded", {step["name"]: ["succeeded"] for step in steps} | other_ends)


def _ping(name: str, echo: object = "x", after: Sequence[str] = ()) -> dict[str, Any]:
    return {**_step(name, "platform.ping", {"echo": echo, "sleep_ms": 20}), "after": list(after)}


def _step(name: str, kind: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "kind": kind, "params": params, "max_attempts": _MOST_ATTEMPTS}
