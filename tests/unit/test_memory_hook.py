"""The memory hook without a network: what is taken of an answer, what waits to be told, and what the log says."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from app.calls.call import Call
from app.config import Config
from app.services import memory_hook
from app.services.memory_hook import MemoryHook, ToldTurn, read_memories, within
from app.upstreams.memory_server import MemoryFailed, MemoryServer, memory_proxy
from tests.unit.test_keys import FakeClock

URL = "http://memory.example/recall?key=url-secret"


class FakeMemory(MemoryServer):
    """Answers `answer` or raises it; a POST waits until `go` is set."""

    def __init__(self, answer: bytes | Exception = b"[]") -> None:
        super().__init__(URL, "token-secret")
        self.answer = answer
        self.asked: list[Mapping[str, str]] = []
        self.told: list[bytes] = []
        self.go = threading.Event()

    def get(self, parameters: Mapping[str, str], seconds: float, caller: Call) -> bytes:
        self.asked.append(parameters)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def post(self, body: bytes, seconds: float) -> None:
        self.go.wait(30)
        self.told.append(body)
        if isinstance(self.answer, Exception):
            raise self.answer


@pytest.fixture
def memory() -> Iterator[FakeMemory]:
    """Whoever waits in a POST goes on at the end."""
    fake = FakeMemory()
    yield fake
    fake.go.set()


def turn(**changes: Any) -> ToldTurn:
    """A turn to tell."""
    usual = {"client": "web", "session": "s", "user": "u", "turn": 1, "user_message": "hi", "response_text": "hello"}
    return ToldTurn(**(usual | {"interrupted": False} | changes))


def counted(server: MemoryServer | None, **options: Any) -> tuple[MemoryHook, Counter[tuple[str, str]]]:
    """A hook, and what it counts."""
    counts: Counter[tuple[str, str]] = Counter()
    return MemoryHook(server, failed=lambda step, reason: counts.update([(step, reason)]), **options), counts


@pytest.mark.parametrize(
    ("raw", "memories"),
    [
        (b'["Mina likes tea", "\xec\xb0\xa8"]', ("Mina likes tea", "차")),
        (b'{"memories": ["a\\nb"], "took_ms": 3}', ("a\nb",)),
        (b'["", "a", " \\n"]', ("a",)),
        (b"\xef\xbb\xbf[]", ()),
        (b"", ()),
        (b"[" + b",".join([b'"a"'] * 100) + b"]", ("a",) * 100),
    ],
)
def test_what_is_taken_of_an_answer(raw: bytes, memories: tuple[str, ...]) -> None:
    """A list of texts, or an object that has one; blank texts are nothing to remember."""
    assert read_memories(raw) == memories


@pytest.mark.parametrize(
    "raw",
    [
        *(b"<html>", b"null", b'"a"', b"7", b"{}", b"[1]", b"[null]"),
        *(b'{"memories": null}', b'{"memories": {"a": "b"}}', b'{"memory": ["a"]}'),
        *(b'[["a"]]', b'["a", {"b": 1}]', b'["\\u0000"]', b'["\\ud800"]', b'["a"', b'["\xff"]', b" "),
        *(b"[" * 60_000, b'{"memories":' * 5_000, b"9" * 60_000, b"[" + b",".join([b'"a"'] * 101) + b"]"),
    ],
)
def test_what_is_not(raw: bytes) -> None:
    """Nothing of an answer is used that is not right as a whole; no shape of it raises anything else."""
    with pytest.raises(MemoryFailed) as raised:
        read_memories(raw)
    assert raised.value.reason == "bad_answer"


def test_the_first_that_fit() -> None:
    """By estimated tokens; what does not fit ends the list, as the best come first."""
    assert within(("a" * 40, "b" * 40, "c"), 20) == ("a" * 40, "b" * 40)
    assert within(("a" * 40, "b" * 44, "c"), 20) == ("a" * 40,)
    assert within(("가" * 21,), 20) == ()
    hook, _ = counted(FakeMemory(b'["' + b"a" * 400 + b'", "b"]'), max_tokens=99)
    assert hook.recall("q", "s", "u", Call(1)) == ()


@pytest.mark.parametrize(("message", "length"), [("a" * 5000, 1000), ("가" * 5000, 333), ("a" + "😀" * 5000, 250)])
def test_a_long_message_is_cut(message: str, length: int) -> None:
    """In whole characters: a URL has its limits."""
    memory = FakeMemory()
    MemoryHook(memory).recall(message, "s", "u", Call(1))
    assert memory.asked[0]["query"] == message[:length]


def test_without_a_server() -> None:
    """Nothing is asked, told or waited for."""
    hook, counts = counted(None)
    assert hook.recall("q", "s", "u", Call(1)) == ()
    hook.tell(turn())
    hook.flush(10)
    assert not counts
    assert MemoryServer.of(Config()) is None


def test_a_fault_of_our_own_stops_no_turn(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it is; its text is not logged."""
    memory = FakeMemory(RuntimeError("SECRET-TEXT"))
    hook, counts = counted(memory)
    assert hook.recall("q", "s", "u", Call(1)) == ()
    memory.go.set()
    hook.tell(turn())
    hook.flush(10)
    assert counts == {("recall", "error"): 1, ("tell", "error"): 1}
    assert "RuntimeError" in caplog.text
    assert "SECRET-TEXT" not in caplog.text


def test_telling_waits_for_nobody(memory: FakeMemory) -> None:
    """As many turns as may wait are told later, the others are counted; nothing holds up the caller."""
    hook, counts = counted(memory)
    began = time.monotonic()
    for number in range(memory_hook.WAITING_TURNS + 7):
        hook.tell(turn(turn=number))
    assert time.monotonic() - began < 1
    assert counts == {("tell", "queue_full"): 7}
    memory.go.set()
    hook.flush(30)
    assert len(memory.told) == memory_hook.WAITING_TURNS
    hook.tell(turn())
    hook.flush(30)
    assert len(memory.told) == memory_hook.WAITING_TURNS + 1


def test_long_turns_do_not_fill_the_memory(memory: FakeMemory) -> None:
    """All texts that wait are bounded together; the first of all may be too long already."""
    hook, counts = counted(memory)
    half = "a" * (memory_hook.WAITING_CHARACTERS // 2)
    hook.tell(turn(user_message=half, response_text=half + "b"))
    assert counts == {("tell", "queue_full"): 1}
    for _ in range(2):
        hook.tell(turn(user_message=half, response_text=""))
    hook.tell(turn(user_message="", response_text="b"))
    assert counts == {("tell", "queue_full"): 2}
    memory.go.set()
    hook.flush(30)
    hook.tell(turn(user_message=half, response_text=half))
    hook.flush(30)
    assert len(memory.told) == 3


def test_a_turn_that_no_json_can_carry_is_told(memory: FakeMemory) -> None:
    """A lone surrogate, where an answer was cut within a character."""
    memory.go.set()
    hook, counts = counted(memory)
    hook.tell(turn(response_text="half \ud83d"))
    hook.flush(10)
    assert not counts
    assert b'"half ?"' in memory.told[0]


def test_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """It says where, what and how often, and nothing of the URL's query, the turn or the token."""
    caplog.set_level(logging.DEBUG)
    clock, memory = FakeClock(), FakeMemory(MemoryFailed("bad_status", "HTTP 302"))
    hook = MemoryHook(memory, clock=clock)
    for seconds in (0, 59, 0.5, 1):
        clock.now += seconds
        hook.recall("query-secret", "session-secret", "user-secret", Call(1))
    assert [record.getMessage() for record in caplog.records] == [
        "memory hook http://memory.example: recall failed (bad_status, HTTP 302); 1 since the last such line",
        "memory hook http://memory.example: recall failed (bad_status, HTTP 302); 3 since the last such line",
    ]


@pytest.mark.parametrize(
    ("settings", "proxy"),
    [
        ({}, ""),
        ({"upstream_proxy": "http://p:1"}, "http://p:1"),
        ({"upstream_proxy": "http://p:1", "no_proxy": "memory.example"}, ""),
        ({"upstream_proxy": "http://p:1", "memory_url": "http://127.0.0.1:9/x"}, ""),
        ({"upstream_proxy": "http://p:1", "memory_url": "http://localhost/x"}, ""),
        ({"upstream_proxy": "http://p:1", "memory_url": "http://[::1]:9/x"}, ""),
        ({"upstream_proxy": "direct", "https_proxy": "http://p:1", "memory_url": "https://memory.example"}, ""),
        ({"https_proxy": "http://p:1"}, ""),
        ({"https_proxy": "http://p:1", "memory_url": "https://memory.example"}, "http://p:1"),
        ({"https_proxy": "http://p:1", "memory_url": "https://memory.example", "no_proxy": ".example"}, ""),
    ],
)
def test_proxies(settings: dict[str, str], proxy: str) -> None:
    """As the upstream's, but never to this machine, nor to a host that NO_PROXY names."""
    assert memory_proxy(Config(**({"memory_url": URL} | settings))) == proxy


def test_a_proxy_of_the_machine_is_checked_at_the_start() -> None:
    """Where it would be used for MEMORY_URL alone."""
    environ = {"OPENAI_BASE_URL": "http://127.0.0.1:1", "HTTPS_PROXY": "socks5://x:1"}
    Config.from_env(environ)
    with pytest.raises(Exception, match=re.escape("HTTPS_PROXY must be")):
        Config.from_env(environ | {"MEMORY_URL": "https://memory.example"})


def test_the_settings_do_not_print_their_secrets() -> None:
    """A URL may carry a key in its query."""
    assert "secret" not in repr(Config(memory_url=URL, memory_token="token-secret"))
