"""A receiver of webhooks that checks each signature, keeps which events it received, and fails at two of eight requests."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, NamedTuple

from shared.webhooks.signing import make_headers

_FAIL_EACH: Final = 8
"""Of how many requests one is answered with 503, and another one is not answered."""


class Event(NamedTuple):
    """What a webhook says: the type of the event, and the id of the task, batch or workflow."""

    type: str
    subject_id: str


class WebhookReceiver:
    """Listens on loopback, in threads, between `start` and `stop`."""

    def __init__(self) -> None:
        self.secret = ""
        """The secret of the endpoint, by which each request must be signed."""
        self.requests = 0
        self.received: dict[str, Event] = {}
        """The event of each `webhook-id`."""
        self.wrong: list[str] = []
        """Requests without a valid signature, and ids that came with a second event."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())

    @property
    def url(self) -> str:
        """The URL for the endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/chaos"

    def start(self) -> None:
        """Start to listen."""
        threading.Thread(target=self._server.serve_forever, name="webhook-receiver", daemon=True).start()

    def stop(self) -> None:
        """Stop to listen."""
        self._server.shutdown()
        self._server.server_close()

    def receive(self, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> int | None:
        """Keep the event of a request. Return the status of the answer, or None for no answer."""
        expected = make_headers(webhook_id, int(timestamp or 0), body, [self.secret])["webhook-signature"]
        with self._lock:
            self.requests += 1
            if expected not in signatures.split():
                self.wrong.append(f"the webhook {webhook_id} has no valid signature")
                return 401
            if self.requests % _FAIL_EACH == 0:
                return 503
            content = json.loads(body)
            event = Event(content["type"], content["data"]["id"])
            if self.received.setdefault(webhook_id, event) != event:
                self.wrong.append(f"the webhook {webhook_id} had the events {self.received[webhook_id]} and {event}")
            return None if self.requests % _FAIL_EACH == 1 else 204

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        receive = self.receive

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                names = ("webhook-id", "webhook-timestamp", "webhook-signature")
                webhook_id, timestamp, signatures = (self.headers.get(name, "") for name in names)
                status = receive(webhook_id, timestamp, signatures, body)
                if status is not None:
                    self.send_response(status)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        return Handler
