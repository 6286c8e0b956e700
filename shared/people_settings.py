"""The settings of how people register and sign in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from shared.setting_subjects import MEBIBYTE, Subject, refusal


class PeopleSettings(Subject):
    """How people register and sign in."""

    title: ClassVar[str] = "People"

    public_url: Annotated[
        str,
        Field(
            description="The URL by which people reach the API, such as `https://tasks.example.com`. It is the issuer of access "
            "tokens, and emails to people name it."
        ),
    ] = "http://localhost:8000"
    registration: Annotated[
        Literal["closed", "invite", "open"],
        Field(
            description="Who may register: nobody (`closed`; `taskmill users create` still creates people), whoever an admin has "
            "invited (`invite`), or everyone (`open`)."
        ),
    ] = "closed"
    session_days: Annotated[int, Field(ge=1, le=365, description="After how many days without use a session ends.")] = (
        30
    )
    invitation_days: Annotated[int, Field(ge=1, le=90, description="For how many days an invitation is valid.")] = 7
    signing_key_days: Annotated[
        int, Field(ge=1, le=3650, description="After how many days a new key signs access tokens.")
    ] = 90
    password_time_cost: Annotated[
        int, Field(ge=1, le=100, description="How many passes Argon2id makes over its memory to hash a password.")
    ] = 3
    password_memory_kib: Annotated[
        int, Field(ge=8, le=4 * MEBIBYTE, description="How much memory Argon2id takes to hash a password, in KiB.")
    ] = 65536
    password_parallelism: Annotated[int, Field(ge=1, le=64, description="How many threads hash a password.")] = 1

    @field_validator("public_url")
    @classmethod
    def _require_an_http_url(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment or url.username:
            raise refusal("must be a URL without a query, such as https://tasks.example.com")
        return value.rstrip("/")

    def list_production_faults(self) -> Iterator[str]:
        """Refuse parameters of Argon2id below those that OWASP's Password Storage Cheat Sheet names as the least."""
        if self.password_memory_kib < 19 * 1024 or self.password_time_cost * self.password_memory_kib < 38 * 1024:
            yield (
                "TASKMILL_PASSWORD_MEMORY_KIB and TASKMILL_PASSWORD_TIME_COST make passwords easy to guess from their hashes: "
                "set at least 19456 KiB and 2 passes"
            )

    def list_production_warnings(self) -> Iterator[str]:
        """Warn about an address that is not that of a server for people."""
        if urlsplit(self.public_url).scheme != "https":
            yield (
                "TASKMILL_PUBLIC_URL does not begin with https://, so links in emails lead nowhere and browsers do not store "
                "the cookie of a session: set it to the URL by which people reach the API"
            )
