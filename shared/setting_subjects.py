"""The base of the classes of settings, and what their validators share. `shared/settings.py` gathers the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

GIBIBYTE = 1 << 30
MEBIBYTE = 1 << 20


class Subject(BaseModel):
    """The settings of one subject."""

    model_config = ConfigDict(frozen=True)

    title: ClassVar[str] = ""
    """The heading of the subject in .env.example and in the table of README.md."""

    def list_production_faults(self) -> Iterator[str]:
        """Yield each setting that production must not start with, and what to set instead. Values are not quoted."""
        yield from ()

    def list_production_warnings(self) -> Iterator[str]:
        """Yield each setting that production starts with, but that the operator should know about."""
        yield from ()


def refusal(message: str) -> PydanticCustomError:
    """Return a validation error that does not quote the value, which may hold a password."""
    return PydanticCustomError("wrong_url", "{message}", {"message": message})


def name_in_environment(location: Sequence[int | str]) -> str:
    """Return the name, without its prefix, of the variable that a validation error is about, and the place within its value."""
    field, *place = location or [""]
    return str(field).upper() + (f" ({'.'.join(map(str, place))})" if place else "")
