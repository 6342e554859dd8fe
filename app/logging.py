"""Logging: one dictConfig for the application and gunicorn; secrets are removed where lines are written."""

from __future__ import annotations

import json
import logging
import os
import re
import traceback
from typing import Any
from urllib.parse import quote

from pythonjsonlogger.json import JsonFormatter

from app.config import Config
from app.log_output import LogFile, StandardOutput, is_writable
from app.models import TOKEN_PREFIX

REDACTED = "[redacted]"
KEY_PREFIXES = ("sk-", "sk_", TOKEN_PREFIX)
SECRET_PATTERNS = re.compile(rf"\b(?:{'|'.join(KEY_PREFIXES)})[A-Za-z0-9_\-]{{6,}}|\b(?i:bearer)\s+\S+")
# What could end a line, move a terminal's cursor, or turn the direction of reading.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
SECRET_MIN_LENGTH = 8
LINE = "_redacted_line"
"""Where a record keeps its finished line between two handlers."""
PROBES = frozenset({"/livez", "/readyz", "/health"})
TEXT_FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"


class Redaction:
    """Replaces what looks like a key, and the server's own, by a fixed word; keeps a record on one line."""

    def __init__(self, *secrets: str) -> None:
        # A key may hold quotes and backslashes: it is looked for in the forms in which it can get into a line.
        # A short one, as local servers take, would turn up in ordinary words.
        self._secrets = [form for secret in secrets if len(secret) >= SECRET_MIN_LENGTH for form in _forms(secret)]

    def __call__(self, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, REDACTED)
        if _may_match(line):
            line = SECRET_PATTERNS.sub(REDACTED, line)
        if line.isascii() and line.isprintable():
            return line
        return CONTROL_CHARACTERS.sub(" ", line.encode("utf-8", "replace").decode())


def _may_match(line: str) -> bool:
    """Whether SECRET_PATTERNS could match. Most lines have nothing of the kind; this takes a tenth of their time."""
    return any(prefix in line for prefix in KEY_PREFIXES) or "bearer" in line.lower()


def _forms(secret: str) -> list[str]:
    forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="")}
    return sorted(forms, key=len, reverse=True)


def exception_place(exc_info: Any) -> str:
    """`Type at file:line in function < …`, innermost frame first; not its text, which may hold a key or a prompt."""
    kind, _, trace = exc_info
    frames = traceback.extract_tb(trace)[::-1]
    places = [f"{os.path.relpath(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames]
    return f"{kind.__name__ if kind else 'Exception'} at {' < '.join(places)}"


class LineFormatter(logging.Formatter):
    """One line per record, made once for all handlers; the text of its time is made once a second."""

    _second, _text = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, super().formatTime(record, datefmt)
        return self._text

    def formatException(self, ei: Any) -> str:
        return exception_place(ei)

    def format(self, record: logging.LogRecord) -> str:
        line: str | None = getattr(record, LINE, None)
        if line is None:
            line = self.redacted(super().format(record))
            setattr(record, LINE, line)
        return line

    def redacted(self, line: str) -> str:
        """The finished line without secrets, where they have not been removed before."""
        return line


class TextFormatter(LineFormatter):
    """One redacted line of text per record."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__(TEXT_FORMAT, TIME_FORMAT)
        self._redact = redact

    def redacted(self, line: str) -> str:
        return self._redact(line)


class RedactedJsonFormatter(LineFormatter, JsonFormatter):
    """One redacted JSON object per record; a record's extra fields become members."""

    def __init__(self, redact: Redaction) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s",
            TIME_FORMAT,
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            json_ensure_ascii=False,
        )
        self._redact = redact

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Redact before encoding: afterwards a secret could hide behind an escape, or a quote be taken for its part."""
        return {name: self._redacted_value(value) for name, value in log_data.items()}

    def _redacted_value(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redact(type(value).__name__ if isinstance(value, BaseException) else str(value))


class ProbesAreQuiet(logging.Filter):
    """Drops the lines about probes, which come every second; LOG_LEVEL=DEBUG shows them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "route", None) not in PROBES or record.levelno > logging.INFO


def log_config(config: Config, *secrets: str) -> dict[str, Any]:
    """The dictConfig for `config`: standard output, and the log file unless it is off or cannot be opened.

    `secrets` are in no line, as OPENAI_API_KEY, MEMORY_TOKEN and the keys of sessions are not.
    """
    # When a handler fails, the standard library prints the record, unredacted, to standard error.
    logging.raiseExceptions = False
    # No format of ours shows these, and finding them out takes longer than writing the line (logging HOWTO,
    # "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False
    ours = (config.openai_api_key, config.memory_token, config.session_key, *config.session_key_old)
    redact = Redaction(*ours, *secrets)
    formatter = RedactedJsonFormatter if config.log_format == "json" else TextFormatter
    handlers: dict[str, Any] = {"stdout": {"()": StandardOutput, "formatter": "line"}}
    if config.log_file and is_writable(config.log_file):
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
