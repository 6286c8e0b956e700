"""What a kind of task is: its contract, which callers rely on and its handler fulfils.

The name of a kind is the path of two modules: `files.make_images` has its contract in
`shared/contracts/files/make_images.py` and its handler in `workers/handlers/files/make_images.py`. The module of a contract
defines the model of the params, the model of the result, and one `KIND`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict

Queue = Literal["email", "files", "reports", "webhooks", "maintenance"]
QUEUES: tuple[Queue, ...] = get_args(Queue)


class Params(BaseModel):
    """The params of a kind: unknown fields are refused, and an instance is never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(BaseModel):
    """The result of a kind, as the task shows it. Validation errors are logged, so they do not quote the values of a result."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True)
class FileReference:
    """Marks a param as the id of a stored file that the task reads.

    `accepts` names the media types that the kind can read, such as `image/png` or `text/*`; an empty tuple means any type.
    """

    accepts: tuple[str, ...] = ()

    def can_read(self, media_type: str) -> bool:
        """Return whether the kind can read a file of this media type."""
        family = media_type.split("/")[0] + "/*"
        return not self.accepts or media_type in self.accepts or family in self.accepts


FileId = Annotated[UUID, FileReference()]
"""A file of any type. For some types only: `Annotated[UUID, FileReference(accepts=("application/pdf", "text/*"))]`."""


class ReferredFile(NamedTuple):
    """One stored file that params refer to."""

    pointer: str
    """JSON Pointer (RFC 6901) into the params, such as `/sources/0/file_id`."""
    file_id: UUID
    reference: FileReference


def list_referred_files(params: BaseModel, pointer: str = "") -> Iterator[ReferredFile]:
    """Yield each file that the params refer to, in the order of the fields. `pointer` is the JSON Pointer of the params."""
    for name, mark in _fields_with_files(type(params)):
        yield from _list_files_in(getattr(params, name), mark, f"{pointer}/{name}")


def _list_files_in(value: object, mark: FileReference | None, pointer: str) -> Iterator[ReferredFile]:
    if isinstance(value, BaseModel):
        yield from list_referred_files(value, pointer)
    elif isinstance(value, UUID) and mark is not None:
        yield ReferredFile(pointer, value, mark)
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _list_files_in(item, mark, f"{pointer}/{position}")


def list_referred_files_in_json(model: type[BaseModel], value: object, pointer: str = "") -> Iterator[ReferredFile]:
    """Yield each file that params refer to, from their JSON values, some of which may be missing or have another type."""
    if not isinstance(value, dict):
        return
    for name, mark in _fields_with_files(model):
        yield from _list_files_in_json(model.model_fields[name].annotation, mark, value.get(name), f"{pointer}/{name}")


def _list_files_in_json(
    annotation: Any, mark: FileReference | None, value: object, pointer: str
) -> Iterator[ReferredFile]:
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield from _list_files_in_json(annotation, mark, item, f"{pointer}/{position}")
    elif isinstance(value, dict):
        for model in _models_inside(annotation):
            yield from list_referred_files_in_json(model, value, pointer)
    elif isinstance(value, str) and mark is not None:
        with suppress(ValueError):
            yield ReferredFile(pointer, UUID(value), mark)


def _models_inside(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_inside(inner)]


@cache
def _fields_with_files(model: type[BaseModel]) -> tuple[tuple[str, FileReference | None], ...]:
    """Return the fields that contain the id of a file or another model, each with its mark, if it has one.

    It is cached for each model, because submissions of most kinds refer to no file and should not pay for the search.
    """
    found = []
    for name, info in model.model_fields.items():
        marks = [m for m in info.metadata if isinstance(m, FileReference)] or _marks_inside(info.annotation)
        if marks or _holds_a_model(info.annotation):
            found.append((name, marks[0] if marks else None))
    return tuple(found)


def _marks_inside(annotation: Any) -> list[FileReference]:
    """Return the marks inside an annotation such as `list[Annotated[UUID, FileReference()]]` or `FileId | None`."""
    own = [m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, FileReference)]
    return own + [m for inner in getattr(annotation, "__args__", ()) for m in _marks_inside(inner)]


def _holds_a_model(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_holds_a_model(inner) for inner in getattr(annotation, "__args__", ()))


@dataclass(frozen=True)
class RetryPolicy:
    """How long a task waits after a failed attempt: exponential backoff with jitter, from `first_seconds` to `longest_seconds`."""

    first_seconds: float = 5.0
    longest_seconds: float = 3600.0

    def delay_seconds(self, attempt: int, uniform: float) -> float:
        """Return how many seconds to wait after the attempt with this number (1 for the first).

        `uniform` is a random number from 0 to 1, which spreads the waits over the upper half of the span ("equal jitter",
        M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015).
        """
        span = min(self.longest_seconds, self.first_seconds * 2.0 ** min(attempt - 1, 30))
        return span / 2 + span / 2 * uniform


P = TypeVar("P", bound=Params)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Kind(Generic[P, R]):
    """The contract of one kind of task: everything that callers and the platform rely on, without how the handler works."""

    params: type[P]
    result: type[R]
    title: str
    description: str
    queue: Queue | Callable[[P], Queue]
    """The queue, or a function that returns the queue for given params."""
    max_attempts: int = 3
    timeout_seconds: int = 300
    """The longest that one attempt may take; a caller's `timeout` may only be shorter."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    short: bool = False
    """Whether an attempt usually ends within milliseconds: several such tasks may travel in one message."""
    uses_files: bool = True
    """Whether the handler reads or makes files. An attempt has a scratch folder only if it does."""
    public: bool = True
    """Whether callers may submit it. If not, only the platform submits it."""
    privileged: bool = False
    """Whether only operators and admins may submit it."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """The errors of this kind alone: the last segment of each problem type, and what it means."""
    example: Mapping[str, Any] | None = None
    """Valid params as a caller may send them, which the schema of the API shows."""
    deliveries: str | None = None
    """Set for a kind that sends something which cannot be undone, such as an email. The table `<deliveries>_intents` records what
    each attempt is about to send, and `<deliveries>_receipts` what the server answered for each recipient. A task that ends
    without success shows the outcome of each recipient, and fails with `/problems/delivery-unknown` where one is unknown."""
    version: int = 1
    """Raised when the meaning of stored params changes."""

    def queue_for(self, params: P) -> Queue:
        """Return the queue of a task with these params."""
        return self.queue(params) if callable(self.queue) else self.queue

    @property
    def default_queue(self) -> Queue:
        """The queue of a task whose params all have their defaults, as the list of kinds shows it."""
        return self.queue(self.params()) if callable(self.queue) else self.queue


AnyKind = Kind[Any, Any]
