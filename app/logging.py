"""Logging: one dictConfig for the application and gunicorn; secrets are removed where lines are written."""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import sys
import traceback
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from app.config import Config

REDACTED = "[redacted]"
SECRET_PATTERNS = re.compile(r"\b(?:sk|llms)[-_][A-Za-z0-9_\-]{6,}|\b[Bb]earer\s+\S+")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
TEXT_FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"


class Redaction:
    """Replaces what looks like a key, and the server's own, by a fixed word; keeps a record on one line."""

    def __init__(self, *secrets: str) -> None:
        self._secrets = [secret for secret in secrets if secret]

    def __call__(self, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, REDACTED)
        line = SECRET_PATTERNS.sub(REDACTED, line).encode("utf-8", "replace").decode()
        return CONTROL_CHARACTERS.sub(" ", line)


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
    """One redacted line of text per record."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__(TEXT_FORMAT, TIME_FORMAT)
        self._redact = redact

    def formatException(self, ei: Any) -> str:
        return ExceptionPlace.describe(ei)

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class RedactedJsonFormatter(JsonFormatter):
    """One redacted JSON object per record; a record's extra fields become members."""

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
        return self._redact(super().format(record))


class LogFile(logging.handlers.WatchedFileHandler):
    """Appends whole lines, so several workers can share the file, and follows external rotation.

    A full or vanished disk must not fail a request: lines that cannot be written are counted and the count is
    reported once writing works again.
    """

    dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.reopenIfNeeded()
            line = self.format(record) + "\n"
            # One write per line: appends of several workers do not mix.
            os.write((self.stream or self._open()).fileno(), line.encode("utf-8", "replace"))
        except Exception:
            self.dropped += 1
            return
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            logging.getLogger(__name__).warning("%d log lines could not be written", lost)


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
        handlers["file"] = {"()": LogFile, "filename": config.log_file, "encoding": "utf-8", "formatter": "line"}
    names = list(handlers)
    third_parties = ("openai", "httpx2", "httpcore2", "urllib3", "flask_smorest", "werkzeug")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter, "redact": redact}},
        "handlers": handlers,
        "root": {"level": config.log_level, "handlers": names},
        "loggers": {
            "gunicorn.error": {"level": config.log_level, "handlers": names, "propagate": False},
            "gunicorn.access": {"level": "INFO", "handlers": names, "propagate": False},
            # Their debug lines can show requests, and so prompts.
            **{name: {"level": "WARNING"} for name in third_parties},
        },
    }


def _writable(path: str) -> bool:
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "a", encoding="utf-8"):
            return True
    except OSError as exc:
        reason = exc.strerror or "it cannot be opened"
        print(f"LOG_FILE is not written ({reason}); logging to standard output only", file=sys.stderr)
        return False
