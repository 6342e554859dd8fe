"""The log: what its lines say, what they never say, and that a log that cannot be written costs no request."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.config import Config
from app.log_output import LogFile
from app.logging import REDACTED, log_config
from tests.server import ROOT

Write = Callable[..., str]


QUOTED_KEY = 'key"with\\quotes'


@pytest.fixture(params=["text", "json"])
def log_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def write(log_format: str, tmp_path: Path) -> Iterator[Write]:
    """Log one record through our formatter and file, and give what the file then holds."""
    path = tmp_path / "app.log"
    config = Config(
        log_file=str(path), log_format=log_format, openai_api_key=QUOTED_KEY, memory_token="the-memory-token"
    )
    configured = log_config(config, "one-of-several-keys")
    formatter = configured["formatters"]["line"]
    handler = LogFile(str(path))
    handler.setFormatter(formatter["()"](formatter["redact"]))
    logger = logging.Logger("test")
    logger.addHandler(handler)

    def written(message: str, *args: object, level: int = logging.INFO, **options: object) -> str:
        logger.log(level, message, *args, **options)  # type: ignore[arg-type]
        return path.read_text()

    yield written
    handler.close()


@pytest.fixture(autouse=True)
def _raise_exceptions_again() -> Iterator[None]:
    """log_config() switches this off for the process it configures."""
    before = logging.raiseExceptions
    yield
    logging.raiseExceptions = before


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    assert text == line + "\n"
    return line


@pytest.mark.parametrize(
    ("said", "secret"),
    [
        ("key sk-abcdefgh12345678 refused", "abcdefgh"),
        ("key sk-proj-Abc_12-xyz9 refused", "Abc_12"),
        ("key sk_live_abcdefgh refused", "abcdefgh"),
        ("token llms_0123456789abcdef", "0123456789"),
        ("Authorization: Bearer abcdefgh.ijkl-mnop", "abcdefgh"),
        ("authorization: bearer   abcdefgh", "abcdefgh"),
        ("BEARER abcdefgh", "abcdefgh"),
        ("bEaReR abcdefgh", "abcdefgh"),
        (f"url=http://x/?k={QUOTED_KEY}&b=1", "quotes"),
        ("rejected one-of-several-keys", "one-of-several-keys"),
        ("rejected the-memory-token", "the-memory-token"),
    ],
)
def test_secrets_are_redacted(write: Write, said: str, secret: str) -> None:
    """In the message and in its arguments; the line stays what it is, valid JSON included."""
    line = only_line(write(f"{said} %s end", [said]))
    assert secret not in line
    assert line.count(REDACTED) == 2
    if line.startswith("{"):
        assert json.loads(line)["message"].count(REDACTED) == 2


def test_secrets_in_extra_fields_are_redacted(write: Write) -> None:
    """A JSON line carries a record's extra fields: they are redacted by value, whatever their type."""
    extra = {"header": "Bearer abcdefgh", "nested": {"key": [QUOTED_KEY]}, "error": ValueError("sk-abcdefgh1")}
    line = only_line(write("hello", extra=extra))
    assert "abcdefgh" not in line
    assert "quotes" not in line
    if line.startswith("{"):
        assert json.loads(line)["error"] == "ValueError"


@pytest.mark.parametrize("forged", ["\n", "\r", "\r\n", "\x0b", "\x85", "\u2028", "\x1b[2K", "\x00", "\u202e", "\x7f"])
def test_lines_cannot_be_forged(write: Write, forged: str) -> None:
    """What ends a line or steers a terminal becomes a space."""
    line = only_line(write("user said %s", f"a{forged}2026-01-01T00:00:00+0000 ERROR [1] app: forged"))
    said = json.loads(line)["message"] if line.startswith("{") else line
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]", said)


def test_lone_surrogates_are_written(write: Write) -> None:
    """Text that UTF-8 cannot carry costs a character, not the line."""
    assert "half ? pair" in only_line(write("half %s pair", "\ud800"))


def failing() -> None:
    raise ValueError("SECRET-TEXT sk-abcdefgh1") from KeyError("SECRET-CAUSE")


def test_exception_text_never_shows(write: Write) -> None:
    """The type of an exception and its place are logged; its text and its causes may hold a prompt."""
    try:
        failing()
    except ValueError as exc:
        text = write("it failed", level=logging.ERROR, exc_info=exc)
    line = text if text.count("\n") == 1 else text.replace("\n", " ")
    assert "SECRET" not in line
    assert re.search(
        r"ValueError at tests/unit/test_logging\.py:\d+ in failing < tests/unit/test_logging\.py:\d+ in test_exc", line
    )
    only_line(text)


def test_levels_and_stamp(write: Write) -> None:
    """A line begins with an ISO 8601 stamp with offset, the level and the process."""
    line = only_line(write("careful", level=logging.WARNING))
    if line.startswith("{"):
        document = json.loads(line)
        assert (document["level"], document["logger"], document["message"]) == ("WARNING", "test", "careful")
        line = f"{document['time']} {document['level']} [{document['process']}] test: careful"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} WARNING \[\d+\] test: careful", line)


LINES = 150


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("app", logging.INFO, __file__, 1, text, None, None)


def test_external_rotation(tmp_path: Path) -> None:
    """When the file is renamed or its directory removed, the next line goes to a new file of the old name."""
    path = tmp_path / "logs" / "app.log"
    log = LogFile(str(path))
    log.emit(record("one"))
    path.rename(tmp_path / "rotated")
    log.emit(record("two"))
    assert path.read_text() == "two\n"
    path.unlink()
    path.parent.rmdir()
    log.emit(record("three"))
    log.close()
    assert (tmp_path / "rotated").read_text() == "one\n"
    assert path.read_text() == "three\n"
    assert log.dropped == 0


def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Lines that cannot be written are counted; standard error is told once; the count is logged in the end."""
    path = tmp_path / "app.log"
    path.symlink_to("/dev/full")
    log = LogFile(str(path))
    for _ in range(3):
        log.emit(record("lost"))
    assert log.dropped == 3
    assert capsys.readouterr().err == (
        "LOG_FILE cannot be written (No space left on device); lines are dropped until it can\n"
    )
    path.unlink()
    log.emit(record("kept"))
    assert path.read_text() == "kept\n"
    assert log.dropped == 0
    assert caplog.messages == ["3 log lines could not be written to LOG_FILE"]
    path.unlink()
    path.symlink_to("/dev/full")
    log.emit(record("lost again"))
    log.close()
    assert capsys.readouterr().err.startswith("LOG_FILE cannot be written")


@pytest.mark.parametrize("whole", [["whole"], []], ids=["second-line", "first-line"])
def test_a_line_that_half_fits(tmp_path: Path, whole: list[str]) -> None:
    """A disk that fills up in the middle of a line costs that line, not the next one."""
    script = """
import logging, resource, sys
from app.log_output import LogFile
log = LogFile(sys.argv[1])
for line in sys.argv[2:]:
    log.emit(logging.makeLogRecord({"msg": line}))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
log.emit(logging.makeLogRecord({"msg": "cut in the middle"}))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert log.dropped == 1
log.emit(logging.makeLogRecord({"msg": "whole again"}))
"""
    path = tmp_path / "app.log"
    subprocess.run([sys.executable, "-c", script, str(path), *whole], cwd=ROOT, check=True, capture_output=True)
    assert path.read_text().splitlines() == [*whole, "cut in the"[: 4 if whole else 10], "whole again"]


def test_after_a_fork(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the master could not write is the master's to report, not each worker's as well."""
    path = tmp_path / "app.log"
    path.symlink_to("/dev/full")
    log = LogFile(str(path))
    log.emit(record("lost"))
    child = os.fork()
    if child == 0:
        log.emit(record("lost by the worker"))
        os._exit(log.dropped)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    log.emit(record("lost by the master"))
    log.close()
    assert log.dropped == 2


def test_a_path_that_cannot_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It costs lines, and no request: nothing is raised where a line is logged."""
    path = tmp_path / "logs" / "app.log"
    log = LogFile(str(path))
    log.emit(record("one"))
    path.parent.rename(tmp_path / "away")
    path.parent.write_text("a file where the directory was")
    log.emit(record("lost"))
    assert log.dropped == 1
    path.parent.unlink()
    log.emit(record("two"))
    log.close()
    assert path.read_text() == "two\n"
    assert capsys.readouterr().err.startswith("LOG_FILE cannot be written (Not a directory)")


def write_many(path: str, writer: int) -> None:
    """Run in a process of its own: four threads that share one handler."""
    log = LogFile(path)

    def one_thread(thread: int) -> None:
        for number in range(LINES):
            padding = "x" * (37 * (number % 100))
            log.handle(record(json.dumps({"id": [writer, thread, number], "padding": padding})))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one_thread, range(4)))
    log.close()
    sys.exit(1 if log.dropped else 0)


def test_several_processes_share_the_file(tmp_path: Path) -> None:
    """Every line of every process and thread is there, whole, also when the file is rotated meanwhile."""
    path = tmp_path / "app.log"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(path), writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    rotations = 0
    while any(writer.is_alive() for writer in writers):
        if path.exists() and path.stat().st_size > 200_000:
            rotations += 1
            path.rename(tmp_path / f"app.log.{rotations}")
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = [tuple(json.loads(line)["id"]) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert rotations
    assert sorted(found) == [(w, t, n) for w in range(3) for t in range(4) for n in range(LINES)]


STALLED = """
import logging, logging.config, os, sys, time
from app.config import Config
from app.logging import log_config
logging.config.dictConfig(log_config(Config(log_file="")))
began = time.monotonic()
for number in range(20_000):
    logging.getLogger("test").info("line %d", number)
print(time.monotonic() - began < 10, file=sys.stderr, flush=True)
sys.stdin.read(1)
for number in range(20_000, 20_003):
    logging.getLogger("test").info("line %d", number)
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_nobody_reads_standard_output(kind: str) -> None:
    """Lines that do not fit are dropped and counted; those that were written are whole."""
    reading, writing = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    command = [sys.executable, "-c", STALLED]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=writing, stderr=-1) as process:
        os.close(writing)
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stderr.readline() == b"True\n"
        os.set_blocking(reading, False)
        text = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(reading, 65536):
                text += piece
        os.set_blocking(reading, True)
        process.stdin.write(b"x")
        process.stdin.close()
        while piece := os.read(reading, 65536):
            text += piece
    os.close(reading)
    lines = text.decode().splitlines()
    numbers = [int(found[1]) for line in lines if (found := re.search(r"line (\d+)$", line))]
    (told,) = [int(found[1]) for line in lines if (found := re.search(r"(\d+) log lines could not be written", line))]
    assert numbers == [*range(numbers[-4] + 1), 20_000, 20_001, 20_002]
    assert told == 20_003 - len(numbers)


def test_the_log_file_is_its_owners(tmp_path: Path) -> None:
    """It holds session ids and who called when."""
    path = tmp_path / "logs" / "app.log"
    log_config(Config(log_file=str(path)))
    assert path.stat().st_mode & 0o777 == 0o600
