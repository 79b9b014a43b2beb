"""Structured logs: one line a record on the screen, as text or as JSON, and in a file when one is asked for.

2026-01-31 12:00:00.123 [INFO][4711] engine/applier: applied: writes=3 because=batch
{"time": "2026-01-31T12:00:00.123Z", "level": "INFO", "logger": "...", "message": "..."}
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TextIO

from calico_engine.settings import FelixSettings

log = logging.getLogger(__name__)

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "none": logging.CRITICAL + 10,
    "": logging.CRITICAL + 10,
}

_NAME = "calico-engine"


class TextFormatter(logging.Formatter):
    """Felix's shape of a line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        where = record.name.removeprefix("calico_engine.").replace(".", "/")
        line = (
            f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} "
            f"[{record.levelname}][{os.getpid()}] {where}: {record.getMessage()}"
        )
        # A record is one line, and none that moves the cursor, whatever a resource's name has in it.
        if not line.isprintable():
            line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        entry = {
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
            "level": record.levelname,
            "pid": os.getpid(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class Screen(logging.StreamHandler[TextIO]):
    """Standard error. A record that cannot be written is counted, not reported where nobody reads."""

    errors = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        Screen.errors += 1


class File(WatchedFileHandler):
    """The log file; as Screen, for a full disk."""

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is left to write has no room
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        Screen.errors += 1


def lost_records() -> int:
    """Return how many records could not be written since the process began."""
    return Screen.errors


def configure(settings: FelixSettings, *, log_format: str = "text", to_file: bool = False) -> None:
    """Set up the root logger; called again it replaces what it set up before.

    A file that cannot be written is reported on the screen and done without.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() == _NAME]:
        root.removeHandler(handler)
        handler.close()
    formatter: logging.Formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    screen = Screen(sys.stderr)
    _add(screen, formatter, settings.log_severity_screen)
    if to_file and settings.log_file_path:
        try:
            Path(settings.log_file_path).parent.mkdir(parents=True, exist_ok=True)
            file = File(settings.log_file_path, encoding="utf-8", errors="backslashreplace")
            _add(file, formatter, settings.log_severity_file)
        except OSError as error:
            log.warning("no log file: %s", error)
    # aiohttp and pyroute2 are chatty below this.
    for name in ("aiohttp", "asyncio", "pyroute2", "watchdog"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _add(handler: logging.Handler, formatter: logging.Formatter, severity: str) -> None:
    root = logging.getLogger()
    handler.set_name(_NAME)
    handler.setFormatter(formatter)
    handler.setLevel(LEVELS.get(severity.lower(), logging.INFO))
    root.addHandler(handler)
    root.setLevel(min(h.level for h in root.handlers if h.get_name() == _NAME))
