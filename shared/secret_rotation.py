"""Encrypts all stored secrets again with the first key of `TASKMILL_ENCRYPTION_KEYS`, while the platform works.

It walks through every column that holds stored secrets, a bounded number of rows in each transaction. A row that changes meanwhile
is left to the next run. It may be interrupted, and run again, at any time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Engine

from shared.audit.actions import AuditAction
from shared.audit.entries import COMMAND_LINE, Entry, write_entry
from shared.database.connections import make_engine
from shared.queries import stored_secrets as queries
from shared.settings import Settings
from shared.stored_secrets import SecretCipher, UnreadableSecret
from shared.tasks.secret_params import PURPOSE as PARAM_PURPOSE
from shared.webhooks.signing import SECRET_PURPOSE

ROWS_TOGETHER: Final = 500
"""How many rows are read, and replaced where needed, in one transaction."""
PURPOSES: Final = (SECRET_PURPOSE, PARAM_PURPOSE)
"""What stored secrets are for. One that was encrypted for another purpose cannot be decrypted."""
_STORED: Final = re.compile(r'v1:([A-Za-z0-9_-]+):[A-Za-z0-9+/]+={0,2}(?="|$)')


@dataclass
class Rotation:
    """What a run did."""

    key: str
    """The name of the key that encrypts now."""
    encrypted_again: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    """How many secrets no key decrypts, by the name of the key that they need."""


def rotate_secrets(settings: Settings) -> Rotation:
    """Encrypt every stored secret that another key than the first has encrypted with the first one, and audit it."""
    engine = make_engine(settings, "secrets", pool_size=1)
    cipher = SecretCipher(settings)
    rotation = Rotation(cipher.first_key)
    try:
        for place in queries.PLACES:
            _rotate_place(engine, place, cipher, rotation)
        if rotation.encrypted_again:
            after = {"key": rotation.key, "encrypted_again": rotation.encrypted_again}
            with engine.begin() as connection:
                write_entry(connection, Entry(COMMAND_LINE, AuditAction.SECRETS_ROTATED, None, None, after=after))
    finally:
        engine.dispose()
    return rotation


def _rotate_place(engine: Engine, place: queries.Place, cipher: SecretCipher, rotation: Rotation) -> None:
    pattern = f"v1:(?!{re.escape(cipher.first_key)}:)"
    after: Sequence[Any] | None = None
    while True:
        with engine.begin() as connection:
            rows = connection.execute(queries.list_rows(place, after, pattern, ROWS_TOGETHER)).all()
            for row in rows:
                if row.value is not None:
                    _rotate_row(connection, place, row[:-1], row.value, cipher, rotation)
        if len(rows) < ROWS_TOGETHER:
            return
        after = rows[-1][:-1]


def _rotate_row(
    connection: Connection,
    place: queries.Place,
    key: Sequence[Any],
    value: str,
    cipher: SecretCipher,
    rotation: Rotation,
) -> None:
    count = 0

    def encrypt_again(stored: re.Match[str]) -> str:
        nonlocal count
        if stored[1] == cipher.first_key:
            return stored[0]
        for purpose in PURPOSES if place.purpose is None else (place.purpose.format(*key),):
            try:
                secret = cipher.decrypt(stored[0], purpose)
            except (UnreadableSecret, ValueError):
                continue
            count += 1
            return cipher.encrypt(secret, purpose)
        rotation.unreadable[stored[1]] = rotation.unreadable.get(stored[1], 0) + 1
        return stored[0]

    replaced = _STORED.sub(encrypt_again, value)
    if count and connection.execute(queries.replace_value(place, key, value, replaced)).rowcount:
        rotation.encrypted_again += count
