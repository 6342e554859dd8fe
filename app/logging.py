"""Logging: one dictConfig for the application and gunicorn; secrets are removed where lines are written."""

from __future__ import annotations

import _socket
import errno
import io
import json
import logging
import logging.handlers
import os
import re
import stat
import sys
import traceback
from typing import Any, Protocol
from urllib.parse import quote

from pythonjsonlogger.json import JsonFormatter

from app.config import Config
from app.models import TOKEN_PREFIX

REDACTED = "[redacted]"
SECRET_PATTERNS = re.compile(rf"\b(?:sk[-_]|{TOKEN_PREFIX})[A-Za-z0-9_\-]{{6,}}|\b(?i:bearer)\s+\S+")
# What could end a line, move a terminal's cursor, or turn the direction of reading.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
SECRET_MIN_LENGTH = 8
LINE = "_redacted_line"
"""Where a record keeps its finished line between two handlers."""
PROBES = frozenset({"/livez", "/readyz"})
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
        line = SECRET_PATTERNS.sub(REDACTED, line)
        if line.isascii() and line.isprintable():
            return line
        return CONTROL_CHARACTERS.sub(" ", line.encode("utf-8", "replace").decode())


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


class SecondFormatter(logging.Formatter):
    """Writes the time of a line, which is in seconds, once in each second."""

    _second, _text = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, super().formatTime(record, datefmt)
        return self._text


class TextFormatter(SecondFormatter):
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


class RedactedJsonFormatter(SecondFormatter, JsonFormatter):
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


class LogFile(logging.handlers.WatchedFileHandler):
    """The standard library's handler that follows external rotation, for several workers and for a full disk.

    A disk that is full or gone must not fail a request: lines that cannot be written are counted, standard error is
    told once, and the count is logged when writing works again.
    """

    def __init__(self, filename: str) -> None:
        # Opened with the first line: whether the file can be opened is no question of the start.
        super().__init__(filename, delay=True)
        self._told = False
        self._pid = os.getpid()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._pid != os.getpid():
            # What the master dropped before the fork is the master's to report.
            self._pid, self.dropped = os.getpid(), 0
        before = self.dropped
        try:
            super().emit(record)
        except Exception:
            # The standard library looks after the rotation outside of its own `try`.
            self.handleError(record)
        if self.dropped == before:
            self._report()

    def handleError(self, record: logging.LogRecord) -> None:
        """Count a line that could not be written."""
        self.dropped += 1
        if not self._told:
            reason = _reason(sys.exc_info()[1])
            print(f"LOG_FILE cannot be written ({reason}); lines are dropped until it can", file=sys.stderr)
        self._told = True

    def _report(self) -> None:
        self._told = False
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            logging.getLogger(__name__).warning("%d log lines could not be written to LOG_FILE", lost)

    def _open(self) -> Any:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        # Others need not read who has asked for what.
        file = io.FileIO(self.baseFilename, "a", opener=lambda path, flags: os.open(path, flags, 0o600))
        stream = LineAppender(file)
        # Else the second line would open the file again, and a half first line would not be ended.
        opened = os.fstat(stream.fileno())
        self.dev, self.ino = opened.st_dev, opened.st_ino
        return stream


class LineAppender:
    """A file that takes each line with one system call: lines of several workers do not mix then.

    A text stream of Python's would hold back what could not be written, and write it, or half of it, later.
    """

    def __init__(self, file: Sink) -> None:
        self._file = file
        self._unfinished = False

    def write(self, line: str) -> None:
        """Append. Raises OSError when it did not fit; what was written of it is ended by the next line."""
        data = line.encode("utf-8", "replace")
        if self._unfinished:
            data = b"\n" + data
        written = self._file.write(data) or 0
        if written:
            self._unfinished = written < len(data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fileno(self) -> int:
        return self._file.fileno()

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._file.close()


class StandardOutput(logging.Handler):
    """Writes lines to standard output without ever waiting for whoever reads it.

    A pipe whose reader has stopped is full after 64 KB. A write would then block the worker's event loop, and with it
    every request: `test_nobody_reads_standard_output`. So a line that does not fit now is dropped and counted, and the
    count is logged when lines fit again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file: LineAppender | None = None
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._file is None:
                self._file = LineAppender(unblocked(sys.stdout.fileno()))
            self._file.write(self.format(record) + "\n")
        except Exception:
            self.dropped += 1
            return
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            logging.getLogger(__name__).warning("%d log lines could not be written to standard output", lost)


class Sink(Protocol):
    """What lines are written to."""

    def write(self, data: bytes, /) -> int | None:
        """Write what fits and tell how much that was; None and 0 are nothing."""

    def fileno(self) -> int:
        """The file's descriptor."""

    def close(self) -> None:
        """Let go of it."""


class SocketSink:
    """A socket, as journald gives for standard output; below gevent, whose `send` would wait."""

    def __init__(self, descriptor: int) -> None:
        self._socket = _socket.socket(fileno=os.dup(descriptor))

    def write(self, data: bytes, /) -> int:
        return self._socket.send(data, _socket.MSG_DONTWAIT)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


def unblocked(descriptor: int) -> Sink:
    """The same pipe, terminal or socket, for writes that never wait; a file as it is.

    A pipe is opened once more, because the mode not to wait belongs to all who share an open file.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return SocketSink(descriptor)
    if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
        return io.FileIO(descriptor, "w", closefd=False)
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return io.FileIO(f"/proc/self/fd/{descriptor}", "w", opener=lambda path, _: os.open(path, flags))
    except OSError:
        # Another user's pipe may be written but not opened.
        if stat.S_ISFIFO(mode):
            os.set_blocking(descriptor, False)
        return io.FileIO(descriptor, "w", closefd=False)


def log_config(config: Config) -> dict[str, Any]:
    """The dictConfig for `config`: standard output, and the log file unless it is off or cannot be opened."""
    # When a handler fails, the standard library prints the record, unredacted, to standard error.
    logging.raiseExceptions = False
    # No format of ours shows these, and finding them out takes longer than writing the line (logging HOWTO,
    # "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = False
    redact = Redaction(config.openai_api_key)
    formatter = RedactedJsonFormatter if config.log_format == "json" else TextFormatter
    handlers: dict[str, Any] = {"stdout": {"()": StandardOutput, "formatter": "line"}}
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
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        return True
    except (OSError, ValueError) as exc:
        print(f"LOG_FILE is not written ({_reason(exc)}); logging to standard output only", file=sys.stderr)
        return False


def _reason(exc: BaseException | None) -> str:
    return (isinstance(exc, OSError) and exc.strerror) or "it cannot be used"
