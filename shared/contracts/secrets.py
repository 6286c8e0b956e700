"""Secret params: a contract marks a param with `Secret`, and the platform encrypts it at rest and never shows it.

    class FetchParams(Params):
        password: Annotated[Secret, Field(min_length=1, max_length=200)]

The handler reads it with `params.password.get_secret_value()`. Secrets may stand in nested models, lists and dicts. A kind that has
secrets names its queue itself, because nothing but an attempt and a new submission knows the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, PlainSerializer, SecretStr
from pydantic_core.core_schema import SerializationInfo

MASK: Final = "•••"
"""What is shown in the place of a secret."""
STORED_KEY: Final = "$secret"
"""A stored secret is the object `{"$secret": <stored form>}` in the place of its text."""
REVEAL: Final = {"reveal_secrets": True}
"""The serialization context with which the JSON of a model has the secrets themselves. Without it, it has the mask."""
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class _SecretMark:
    """Marks a param as a secret."""


_MARK: Final = _SecretMark()


def _dump(value: SecretStr, info: SerializationInfo) -> str:
    return value.get_secret_value() if info.context == REVEAL else MASK


Secret = Annotated[SecretStr, _MARK, PlainSerializer(_dump, return_type=str, when_used="json")]
"""A text that is encrypted at rest and never shown."""


def has_secrets(model: type[BaseModel]) -> bool:
    """Return whether a model has a secret, at any depth.

    Raises `TypeError` for a `SecretStr` that is not a `Secret`, because it would be stored as asterisks.
    """
    return _has_secrets(model)


@cache
def _has_secrets(model: type[BaseModel]) -> bool:
    return any(
        _holds_secret(info.annotation, info.metadata, frozenset({model})) for info in model.model_fields.values()
    )


def map_secrets(model: type[BaseModel], value: Any, function: Callable[[Any, Path], Any], path: Path = ()) -> Any:
    """Return params as a JSON value, with each value in the place of a secret replaced by `function(value, path)`.

    Parts may be missing or have another type than the model says. Null is left as it is.
    """
    if not isinstance(value, dict):
        return value
    replaced = dict(value)
    for name, info in model.model_fields.items():
        for key in {name, info.alias, info.serialization_alias} & value.keys():
            assert key is not None
            replaced[key] = _map(info.annotation, info.metadata, replaced[key], function, (*path, key))
    return replaced


def _map(annotation: Any, metadata: Any, value: Any, function: Callable[[Any, Path], Any], path: Path) -> Any:
    if value is None:
        return None
    if any(mark is _MARK for mark in metadata):
        return function(value, path)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _map(arguments[0], annotation.__metadata__, value, function, path)
    if _is_model(annotation):
        return map_secrets(annotation, value, function, path) if has_secrets(annotation) else value
    if isinstance(value, list):
        for argument in arguments:
            value = [_map(argument, (), item, function, (*path, place)) for place, item in enumerate(value)]
        return value
    if isinstance(value, dict) and isinstance(origin, type) and issubclass(origin, dict):
        return {key: _map(arguments[1], (), item, function, (*path, key)) for key, item in value.items()}
    for argument in arguments:
        value = _map(argument, (), value, function, path)
    return value


def _holds_secret(annotation: Any, metadata: Any, seen: frozenset[Any]) -> bool:
    if any(mark is _MARK for mark in metadata):
        return True
    if annotation is SecretStr:
        raise TypeError("a param has the type SecretStr: use shared.contracts.secrets.Secret")
    if get_origin(annotation) is Annotated:
        return _holds_secret(get_args(annotation)[0], annotation.__metadata__, seen)
    if _is_model(annotation):
        if annotation in seen:
            return False
        fields = annotation.model_fields.values()
        return any(_holds_secret(info.annotation, info.metadata, seen | {annotation}) for info in fields)
    return any(_holds_secret(argument, (), seen) for argument in get_args(annotation))


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel)
