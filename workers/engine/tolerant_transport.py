"""kombu's Redis transport, changed to drop messages that cannot be decoded.

In kombu, an error while a message is decoded ends the consumer, and with it the worker. One such message in a shared broker
would end one worker after the other. In Taskmill a message only announces tasks that are stored in Postgres, so it can be
dropped without losing any.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis

log = structlog.get_logger()


class TolerantChannel(redis.Channel):
    """A channel that drops messages that it cannot decode."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (Empty, *self.connection_errors):
            raise
        except Exception as error:
            log.warning("message_dropped", error=type(error).__name__)
            return True


class TolerantTransport(redis.Transport):
    """A transport with such channels, for `redis://` and `rediss://`."""

    Channel = TolerantChannel
