"""Parses the URLs of receivers of webhooks."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final
from urllib.parse import urlsplit

import idna

MAX_URL_CHARACTERS: Final = 2048
_VISIBLE_ASCII: Final = re.compile(r"[!-~]*", re.ASCII)
_HOST: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?", re.ASCII)
_AFTER_BRACKETS: Final = re.compile(r"\](?!:[0-9]*$|$)|^[^\[]+\[")
_MAX_LABEL_CHARACTERS: Final = 63


class InvalidUrl(ValueError):
    """The text is no URL to which a webhook can be sent. The message says what is wrong with it."""


def normalize_url(text: str) -> str:
    """Return an `http` or `https` URL with its host in ASCII. Raises `InvalidUrl`.

    Refused are credentials, which logs would show, and a fragment, which is never sent.
    """
    if len(text) > MAX_URL_CHARACTERS:
        raise InvalidUrl(f"Must have at most {MAX_URL_CHARACTERS} characters.")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise InvalidUrl("Must be a URL such as https://example.com/hooks.") from None
    if url.scheme not in {"http", "https"} or not text[len(url.scheme) :].startswith("://"):
        raise InvalidUrl("Must begin with https:// or http://.")
    if "@" in url.netloc:
        raise InvalidUrl("Must not contain credentials: the signature shows the receiver who sends.")
    if "#" in text:
        raise InvalidUrl("Must not have a fragment (#), because it would not be sent.")
    if _AFTER_BRACKETS.search(url.netloc):
        raise InvalidUrl("Must have nothing but a port after an address between brackets.")
    if port == 0 or url.netloc.endswith(":"):
        raise InvalidUrl("Must have a port between 1 and 65535, or none.")
    rest = text[text.index("://") + 3 + len(url.netloc) :]
    if not _VISIBLE_ASCII.fullmatch(rest) or "\\" in text:
        raise InvalidUrl("Must be percent-encoded: visible ASCII characters only, and no backslash.")
    host = _normalize_host(url.hostname or "")
    return f"{url.scheme}://{host}{'' if port is None else f':{port}'}{rest if rest[:1] == '/' else '/' + rest}"


def find_host(url: str) -> tuple[str, int]:
    """Return the host and port of a normalized URL."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _normalize_host(host: str) -> str:
    if ":" in host:
        try:
            return f"[{IPv6Address(host).compressed}]" if "%" not in host else _refuse_zone()
        except AddressValueError:
            raise InvalidUrl("Must have a valid IPv6 address between brackets.") from None
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            raise InvalidUrl("Must have a valid host name.") from None
    if not _HOST.fullmatch(host) or max(map(len, host.split("."))) > _MAX_LABEL_CHARACTERS:
        raise InvalidUrl("Must have a valid host name.")
    return host


def _refuse_zone() -> str:
    raise InvalidUrl("Must not name a network interface of the server (%).")
