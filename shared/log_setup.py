"""Sets up structured logs on standard error: each line has a fixed event name and fields, as JSON or for a terminal.

Nothing secret or personal is logged: no payload, header field, email address, file name or key. Ids are logged.
"""

from __future__ import annotations

import logging
import sys

import orjson
import structlog
from structlog.processors import JSONRenderer
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.settings import Settings

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up_logs(settings: Settings, part: str) -> None:
    """Write every log line of this process in one format, those of libraries too. `part` names the process in each."""
    level = LEVELS[settings.log_level]
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _make_part_adder(part),
    ]
    # By default structlog prints the values of local variables with an exception, and with them secrets and payloads.
    on_console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    exceptions: list[Processor] = [] if console else [structlog.processors.format_exc_info]
    # Taskmill's own lines bypass the standard library's logging, which is ten times slower: there is a line for each task.
    structlog.configure(
        processors=[*shared, *exceptions, on_console if console else JSONRenderer(serializer=orjson.dumps)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr)
        if console
        else structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *exceptions,
                on_console if console else JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Libraries log warnings and errors only.
    for library in (
        "celery",
        "kombu",
        "amqp",
        "uvicorn",
        "botocore",
        "boto3",
        "s3transfer",
        "urllib3",
        "tornado",
        "flower",
        "alembic",
        "slowapi",
    ):
        logging.getLogger(library).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    for warning in settings.list_warnings():
        structlog.get_logger().warning("unsafe_setting", detail=warning)


def _make_part_adder(part: str) -> Processor:
    """Return a processor that adds the name of the part to each line."""

    def add_part(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["part"] = part
        return event

    return add_part
