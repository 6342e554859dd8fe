"""Where log lines go: a file, and standard output. Neither may fail or hold up a request."""

from __future__ import annotations

import _socket
import errno
import io
import logging
import logging.handlers
import os
import stat
import sys
from typing import Any, Protocol


class LogFile(logging.handlers.WatchedFileHandler):
    """The standard library's handler that follows external rotation, for several workers and for a full disk.

    A disk that is full or gone must not fail a request: lines that cannot be written are counted, standard error is
    told once, and the count is logged when writing works again.
    """

    def __init__(self, filename: str) -> None:
        # Opened with the first line, so that a file that cannot be opened does not prevent the start.
        super().__init__(filename, delay=True)
        self._told = False
        self._pid = os.getpid()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._pid != os.getpid():
            # What the master dropped before the fork is the master's to report.
            self._pid, self.dropped = os.getpid(), 0
        try:
            self.reopenIfNeeded()
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)
            return
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


def is_writable(path: str) -> bool:
    """Whether the log file can be opened; if not, standard error is told why."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        return True
    except (OSError, ValueError) as exc:
        print(f"LOG_FILE is not written ({_reason(exc)}); logging to standard output only", file=sys.stderr)
        return False


def _reason(exc: BaseException | None) -> str:
    return (isinstance(exc, OSError) and exc.strerror) or "it cannot be used"
