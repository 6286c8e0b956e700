"""What each route needs, as its dependencies declare it: for the schema, the table in the documents and the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute

from shared.permissions import Permission

_MARK: Final = "taskmill_permissions"
_PERSON_MARK: Final = "taskmill_person"
F = TypeVar("F", bound=Callable[..., Any])


def declare_permissions(function: F, permissions: tuple[Permission, ...]) -> F:
    """Mark a function as one that requires permissions: a dependency, or an endpoint that is answered elsewhere."""
    setattr(function, _MARK, permissions)
    return function


def needs(*permissions: Permission) -> Callable[[F], F]:
    """Return a decorator that declares what a route needs whose caller is found elsewhere, such as by `api/hot_paths.py`."""
    return lambda endpoint: declare_permissions(endpoint, permissions)


def declare_person(function: F) -> F:
    """Mark a dependency as one that requires a signed-in person."""
    setattr(function, _PERSON_MARK, True)
    return function


def needs_person(route: APIRoute | APIWebSocketRoute) -> bool:
    """Return whether a route requires a signed-in person, whatever the role is: it is about the person's own account."""
    return any(hasattr(dependency.call, _PERSON_MARK) for dependency in route.dependant.dependencies)


def list_permissions(route: APIRoute | APIWebSocketRoute) -> tuple[Permission, ...]:
    """Return the permissions that a route needs, in the order in which they are declared; none if it is open."""
    return tuple(dict.fromkeys(_walk(route.dependant)))


def _walk(dependant: Dependant) -> Iterator[Permission]:
    yield from getattr(dependant.call, _MARK, ())
    for dependency in dependant.dependencies:
        yield from _walk(dependency)
