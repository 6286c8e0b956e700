"""kombu's Redis transport, which survives messages that are none.

In kombu whatever a message raises while it is decoded ends the consumer, and with it the worker; one such message in a
shared broker would end every worker in turn. A message is only a bell here, so one that cannot be read is dropped.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis

log = structlog.get_logger()


class TolerantChannel(redis.Channel):
    """A channel that drops what it cannot read."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (Empty, *self.connection_errors):
            raise
        except Exception as error:
            log.warning("message_dropped", error=type(error).__name__)
            return True


class TolerantTransport(redis.Transport):
    """The transport of such channels, for `redis://` and `rediss://`."""

    Channel = TolerantChannel
