"""Time-based one-time passwords (TOTP, RFC 6238), and the recovery codes that replace them.

The parameters are those that every authenticator app supports: SHA-1, six digits, 30 seconds. A code is accepted one step
before and after its time, for clocks that differ, and never twice: the step of the last accepted code is stored, and only later
ones are accepted (RFC 6238, section 5.2).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final
from urllib.parse import quote, urlencode
from uuid import UUID

SECRET_BYTES: Final = 20
"""The length that RFC 4226, section 4, recommends."""
STEP_SECONDS: Final = 30
DIGITS: Final = 6
ALLOWED_STEPS: Final = (-1, 0, 1)
RECOVERY_CODES: Final = 10
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""The characters of recovery codes, without those that are mistaken for each other."""


def new_secret() -> str:
    """Return a random secret in Base32, as authenticator apps read it."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()


def code_at(secret: str, step: int) -> str:
    """Return the code of a step: HOTP (RFC 4226, section 5.3) with the step as the counter."""
    digest = hmac.digest(base64.b32decode(secret), step.to_bytes(8, "big"), hashlib.sha1)
    offset = digest[-1] & 0xF
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFF_FFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def find_step(secret: str, code: str, now_seconds: float) -> int | None:
    """Return the step whose code this is, or None. All allowed steps are compared, in constant time."""
    current = int(now_seconds // STEP_SECONDS)
    text = code.replace(" ", "").encode("utf-8", "surrogatepass")
    found = None
    for difference in ALLOWED_STEPS:
        if hmac.compare_digest(code_at(secret, current + difference).encode(), text):
            found = current + difference
    return found


def provisioning_uri(secret: str, account: str, issuer: str) -> str:
    """Return the `otpauth://` URI that authenticator apps read from a QR code."""
    query = urlencode(
        {"secret": secret, "issuer": issuer, "algorithm": "SHA1", "digits": DIGITS, "period": STEP_SECONDS},
        quote_via=quote,
    )
    return f"otpauth://totp/{quote(issuer)}:{quote(account)}?{query}"


def new_recovery_codes() -> list[str]:
    """Return random recovery codes, such as `k7mq2-x9vtn`: 49 bits each, which are tried under the limits of sign-in only."""
    return [
        "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(2)) for _ in range(RECOVERY_CODES)
    ]


def normalize_recovery_code(text: str) -> str:
    """Return a recovery code as it is digested: in lower case, without spaces and hyphens."""
    return "".join(character for character in text.lower() if character.isalnum())


def recovery_code_digest(person_id: UUID, code: str) -> bytes:
    """Return the digest of a recovery code that is stored. The person's id makes that of the same code of another differ."""
    return hashlib.sha256(person_id.bytes + normalize_recovery_code(code).encode("utf-8", "surrogatepass")).digest()
