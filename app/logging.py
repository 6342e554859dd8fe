"""Logging: one dictConfig for the application and gunicorn; secrets are removed where lines are written."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import sys
import traceback
from typing import Any
from urllib.parse import quote

from pythonjsonlogger.json import JsonFormatter

from app.config import Config

REDACTED = "[redacted]"
SECRET_PATTERNS = re.compile(r"\b(?:sk|llms)[-_][A-Za-z0-9_\-]{6,}|\b(?i:bearer)\s+\S+")
# What could end a line, move a terminal's cursor, or turn the direction of reading.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LINE = "_redacted_line"
"""Where a record keeps its finished line between two handlers."""
PROBES = frozenset({"/livez", "/readyz"})
TEXT_FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"


class Redaction:
    """Replaces what looks like a key, and the server's own, by a fixed word; keeps a record on one line."""

    def __init__(self, *secrets: str) -> None:
        # A key may hold quotes and backslashes: it is looked for in the forms in which it can get into a line.
        self._secrets = [form for secret in secrets if secret for form in _forms(secret)]

    def __call__(self, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, REDACTED)
        line = SECRET_PATTERNS.sub(REDACTED, line).encode("utf-8", "replace").decode()
        return CONTROL_CHARACTERS.sub(" ", line)


def _forms(secret: str) -> list[str]:
    forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="")}
    return sorted(forms, key=len, reverse=True)


class ExceptionPlace:
    """Formats an exception by its type and place only: its text may hold a key or a prompt."""

    @staticmethod
    def describe(exc_info: Any) -> str:
        """`Type at file:line in function < …`, innermost frame first."""
        kind, _, trace = exc_info
        frames = traceback.extract_tb(trace)[::-1]
        places = [f"{os.path.relpath(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames]
        return f"{kind.__name__ if kind else 'Exception'} at {' < '.join(places)}"


class TextFormatter(logging.Formatter):
    """One redacted line of text per record, made once for all handlers."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__(TEXT_FORMAT, TIME_FORMAT)
        self._redact = redact

    def formatException(self, ei: Any) -> str:
        return ExceptionPlace.describe(ei)

    def format(self, record: logging.LogRecord) -> str:
        line: str | None = getattr(record, LINE, None)
        if line is None:
            line = self._redact(super().format(record))
            setattr(record, LINE, line)
        return line


class RedactedJsonFormatter(JsonFormatter):
    """One redacted JSON object per record, made once for all handlers; a record's extra fields become members."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s",
            TIME_FORMAT,
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            json_ensure_ascii=False,
        )
        self._redact = redact

    def formatException(self, ei: Any) -> str:
        return ExceptionPlace.describe(ei)

    def format(self, record: logging.LogRecord) -> str:
        line: str | None = getattr(record, LINE, None)
        if line is None:
            line = super().format(record)
            setattr(record, LINE, line)
        return line

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Redact before encoding: afterwards a secret could hide behind an escape, or a quote be taken for its part."""
        return {name: self._redacted(value) for name, value in log_data.items()}

    def _redacted(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redact(type(value).__name__ if isinstance(value, BaseException) else str(value))


class ProbesAreQuiet(logging.Filter):
    """Drops the lines about probes, which come every second; LOG_LEVEL=DEBUG shows them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "route", None) not in PROBES or record.levelno > logging.INFO


class LogFile(logging.Handler):
    """Appends whole lines, so that several workers can share the file, and follows external rotation.

    A full or vanished disk must not fail a request: lines that cannot be written are counted, standard error is told
    once, and the count is logged when writing works again.
    """

    def __init__(self, filename: str) -> None:
        super().__init__()
        self._path = os.path.abspath(filename)
        self._descriptor: int | None = None
        self._unfinished = False
        self._told = False
        self._pid = os.getpid()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._pid != os.getpid():
            # What the master dropped before the fork is the master's to report.
            self._pid, self.dropped = os.getpid(), 0
        try:
            self._write(self.format(record))
        except Exception as exc:
            self.dropped += 1
            if not self._told:
                print(f"LOG_FILE cannot be written ({_reason(exc)}); lines are dropped until it can", file=sys.stderr)
            self._told = True
            return
        self._told = False
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            logging.getLogger(__name__).warning("%d log lines could not be written to LOG_FILE", lost)

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._let_go()
        super().close()

    def _write(self, line: str) -> None:
        """Append one line with one system call: what several workers append does not mix then."""
        self._follow_rotation()
        data = f"{line}\n".encode("utf-8", "replace")
        if self._unfinished:
            data = b"\n" + data
        written = os.write(self._open(), data)
        self._unfinished = 0 < written < len(data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _follow_rotation(self) -> None:
        """Let go of a file that is no longer the one at our path."""
        if self._descriptor is None:
            return
        ours = os.fstat(self._descriptor)
        try:
            there = os.stat(self._path)
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._let_go()

    def _open(self) -> int:
        if self._descriptor is None:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            self._unfinished = False
        return self._descriptor

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def log_config(config: Config) -> dict[str, Any]:
    """The dictConfig for `config`: standard output, and the log file unless it is off or cannot be opened."""
    # When a handler fails, the standard library prints the record, unredacted, to standard error.
    logging.raiseExceptions = False
    redact = Redaction(config.openai_api_key)
    formatter = RedactedJsonFormatter if config.log_format == "json" else TextFormatter
    handlers: dict[str, Any] = {
        "stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}
    }
    if config.log_file and _writable(config.log_file):
        handlers["file"] = {"()": LogFile, "filename": config.log_file, "formatter": "line"}
    names = list(handlers)
    quiet = [] if config.log_level == "DEBUG" else ["probes"]
    third_parties = ("alembic", "openai", "httpx2", "httpcore2", "urllib3", "flask_smorest", "werkzeug")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter, "redact": redact}},
        "filters": {"probes": {"()": ProbesAreQuiet}},
        "handlers": handlers,
        "root": {"level": config.log_level, "handlers": names},
        "loggers": {
            "gunicorn.error": {"level": config.log_level, "handlers": names, "propagate": False},
            "app.request": {"filters": quiet},
            # Their debug lines can show requests, and so prompts.
            **{name: {"level": "WARNING"} for name in third_parties},
        },
    }


def _writable(path: str) -> bool:
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "a", encoding="utf-8"):
            return True
    except (OSError, ValueError) as exc:
        print(f"LOG_FILE is not written ({_reason(exc)}); logging to standard output only", file=sys.stderr)
        return False


def _reason(exc: Exception) -> str:
    return (isinstance(exc, OSError) and exc.strerror) or "it cannot be used"
