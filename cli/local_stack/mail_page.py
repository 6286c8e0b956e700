"""A small page on the loopback interface that lists the messages in the mail sink and shows each as text."""

from __future__ import annotations

import asyncio
import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote

_NAME = re.compile(r"[0-9TZ.]+-[0-9a-f]+\.eml")
_LISTED = 200
_SHOWN_HEADERS = ("Delivered-To", "From", "To", "Cc", "Reply-To", "Subject", "Date")
_HEADERS = (
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options: nosniff",
    "Referrer-Policy: no-referrer",
    "Cache-Control: no-store",
    "Connection: close",
)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}pre{white-space:pre-wrap}"
)


class MailPage:
    """Serves the list at `/`, a message as text at `/messages/NAME`, and its bytes at `/messages/NAME/source`.

    Everything from a message is shown escaped. A request whose `Host` is not the loopback interface is refused: a page on
    the web could otherwise have its own name resolve to this machine and read the mail (DNS rebinding).
    """

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle the only request of a connection."""
        try:
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status, media_type, body = await asyncio.to_thread(self._respond, head)
                lines = [f"HTTP/1.1 {status}", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *_HEADERS]
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
                if not head.startswith("HEAD "):
                    writer.write(body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def _respond(self, head: str) -> tuple[str, str, bytes]:
        request, *header_lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        path = unquote(rest.partition(" ")[0].partition("?")[0])
        headers = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in header_lines)}
        if headers.get("host") not in self._hosts:
            return _refusal("421 Misdirected Request")
        if method not in {"GET", "HEAD"}:
            return _refusal("405 Method Not Allowed")
        if path == "/":
            return "200 OK", "text/html; charset=utf-8", self._list().encode()
        match path.strip("/").split("/"):
            case ["messages", name, *source] if source in ([], ["source"]) and _NAME.fullmatch(name):
                try:
                    content = (self._directory / name).read_bytes()
                except FileNotFoundError:
                    return _refusal("404 Not Found")
                if source:
                    return "200 OK", "message/rfc822", content
                return "200 OK", "text/html; charset=utf-8", _show(name, content).encode("utf-8", "replace")
        return _refusal("404 Not Found")

    def _list(self) -> str:
        names = sorted((path.name for path in self._directory.glob("*.eml")), reverse=True)
        rows = []
        for name in names[:_LISTED]:
            try:
                message = _parse((self._directory / name).read_bytes())
            except FileNotFoundError:
                continue
            subject = _header(message, "Subject") or "(no subject)"
            recipients = ", ".join(_header_values(message, "Delivered-To"))
            rows.append(
                f'<li><a href="/messages/{quote(name)}">{escape(subject)}</a> to {escape(recipients)}, {escape(name[:15])}'
            )
        count = f"{len(names)} messages" + (f". The last {_LISTED} are listed" if len(names) > _LISTED else "")
        return _page("Mail", f"<p>{count}. No message leaves this machine.</p><ul>{''.join(rows)}</ul>")


def _show(name: str, content: bytes) -> str:
    message = _parse(content)
    headers = [f"{header}: {value}" for header in _SHOWN_HEADERS for value in _header_values(message, header)]
    parts = []
    for part in message.walk():
        if part.is_multipart():
            continue
        payload = part.get_payload(decode=True)
        octets = payload if isinstance(payload, bytes) else b""
        attached = part.get_filename()
        title = f"{part.get_content_type()}, {len(octets)} bytes" + (f", attached as {attached}" if attached else "")
        parts.append(f"<h2>{escape(title)}</h2>")
        if part.get_content_maintype() == "text" and not attached:
            parts.append(f"<pre>{escape(_decode(octets, part.get_content_charset()))}</pre>")
    source = f'<p><a href="/messages/{quote(name)}/source">Source</a></p>'
    headline = escape("\n".join(headers))
    return _page(_header(message, "Subject") or name, f"<pre>{headline}</pre>{''.join(parts)}{source}")


def _parse(content: bytes) -> EmailMessage:
    return message_from_bytes(content, policy=policy.default)


def _header(message: EmailMessage, name: str) -> str:
    return next(iter(_header_values(message, name)), "")


def _header_values(message: EmailMessage, name: str) -> list[str]:
    try:
        return [str(value) for value in message.get_all(name, [])]
    except (ValueError, IndexError, AttributeError):
        # The standard library raises these errors for some malformed header fields, and a sink receives those too.
        return ["(unreadable)"]


def _decode(octets: bytes, charset: str | None) -> str:
    try:
        return octets.decode(charset or "utf-8", errors="replace")
    except LookupError:
        return octets.decode("latin-1")


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{body}</html>"
    )


def _refusal(status: str) -> tuple[str, str, bytes]:
    return status, "text/plain; charset=utf-8", (status.partition(" ")[2] + "\n").encode()
