"""Counts attempts to sign in, so that nobody can guess a password, and nobody can lock the owner of an account out.

Each attempt is counted before the password is looked at: for the network of the client, for the account, and for the account from
that network. An attempt that succeeds is taken back. Beyond a limit, attempts are refused without looking at the password:

- A network has `PER_NETWORK` attempts in a window, whatever the accounts are.
- An account has `PER_ACCOUNT_AND_NETWORK` attempts from one network.
- An account has `PER_ACCOUNT` attempts from all networks, which stops guessing from many of them. Addresses from which the owner
  was signed in during the last 30 days do not count as others, so that the owner still gets in from there.

Who is refused can still refresh a session that stands, and can choose a new password by email, which deletes the counts of the
account. Unknown accounts are counted like known ones, so that the limits do not tell which accounts exist.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from api.http.client_network import normalize_address
from api.http.problems import Problem
from shared.queries import people as queries
from shared.queries.sessions import is_known_address

WINDOW_SECONDS: Final = 900
PER_NETWORK: Final = 100
PER_ACCOUNT_AND_NETWORK: Final = 10
PER_ACCOUNT: Final = 50
KNOWN_DAYS: Final = 30
EMAILS_PER_ACCOUNT: Final = 5
"""How many messages of one kind an address is sent in a window."""
TOO_MANY: Final = (
    "Too many attempts to sign in. Wait, go on with a session that you have, or choose a new password by "
    "`POST /auth/forgot-password`."
)
Purpose = Literal["sign-in", "reset", "verify", "invitation"]


@dataclass(frozen=True)
class Attempt:
    """One counted attempt. `subjects` are what it was counted for."""

    subjects: tuple[bytes, ...]


class Attempts:
    """Counts attempts in the database, for all processes."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def begin(self, account: str, address: str | None, person_id: UUID | None) -> Attempt:
        """Count an attempt to sign in, and return it. Raises the problem `rate-limited` beyond a limit."""
        network = normalize_address(address)
        of_network, of_account = _subject("network", network), _subject("account", account)
        of_both = _subject("both", f"{account} {network}")
        counted = await self._count(of_network, of_account, of_both)
        limits = {of_network: PER_NETWORK, of_both: PER_ACCOUNT_AND_NETWORK}
        # The statement runs for unknown accounts too, so that both take the same time.
        if not await self.is_known(person_id, address):
            limits[of_account] = PER_ACCOUNT
        waits = [counted[subject][1] for subject, limit in limits.items() if counted[subject][0] > limit]
        if waits:
            raise _refusal(max(waits))
        return Attempt((of_network, of_account, of_both))

    async def succeed(self, attempt: Attempt) -> None:
        """Undo the count of an attempt, because it succeeded."""
        async with self._engine.connect() as connection:
            await connection.execute(queries.uncount_attempts(list(attempt.subjects)))

    async def forget(self, account: str, address: str | None) -> None:
        """Delete the counts of an account, whose owner has shown that the address is theirs."""
        both = _subject("both", f"{account} {normalize_address(address)}")
        async with self._engine.connect() as connection:
            await connection.execute(queries.forget_attempts([_subject("account", account), both]))

    async def count_email(self, purpose: Purpose, account: str, address: str | None) -> bool:
        """Count a request for an email, and return whether it is to be sent. Raises `rate-limited` for a network."""
        of_network, of_account = (
            _subject(f"{purpose} network", normalize_address(address)),
            _subject(purpose, account),
        )
        counted = await self._count(of_network, of_account)
        if counted[of_network][0] > PER_NETWORK:
            raise _refusal(counted[of_network][1], "Too many emails were asked for from this network: wait.")
        return counted[of_account][0] <= EMAILS_PER_ACCOUNT

    async def _count(self, *subjects: bytes) -> dict[bytes, tuple[int, float]]:
        async with self._engine.connect() as connection:
            rows = await connection.execute(queries.count_attempts(list(subjects), WINDOW_SECONDS))
            return {bytes(row.subject): (row.attempts, float(row.wait_seconds)) for row in rows}

    async def is_known(self, person_id: UUID | None, address: str | None) -> bool:
        """Return whether a person had a session from an address in the last `KNOWN_DAYS`. Without a person, in vain."""
        async with self._engine.connect() as connection:
            statement = is_known_address(person_id or UUID(int=0), address or "", KNOWN_DAYS)
            return bool((await connection.execute(statement)).scalar_one())


def _subject(*parts: str) -> bytes:
    """Return the key of a count: a digest, so that addresses of unknown accounts are not stored."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def _refusal(wait_seconds: float, detail: str = TOO_MANY) -> Problem:
    return Problem("rate-limited", detail, headers={"Retry-After": str(max(1, math.ceil(wait_seconds)))})
