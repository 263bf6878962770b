"""Logs as JSON lines on stderr, each with the id of the request it belongs to."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar

__all__ = ["JsonLinesFormatter", "request_id", "setup_logging"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request being answered; set by `shortlist.serving`, empty outside of one."""


class JsonLinesFormatter(logging.Formatter):
    """One JSON object a record: time, level, process, logger, message, request_id, exception."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def setup_logging(process: str, level: str = "INFO") -> None:
    """Send every logger of this process to stderr as JSON lines; call once, in `__main__`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLinesFormatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
