"""The cache of answers by itself: how long, how many, and what is in a key."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.calls.call import Call
from app.config import Config
from app.errors import OpenAIClientException
from app.models import ChatRequest, Completion
from app.services.cache import ResponseCache
from app.services.chat import ChatService
from app.services.exchange import Exchange
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.unit.test_keys import FakeClock
from tests.upstream import Upstream


def make_service(upstream: Upstream, max_size: int = 10, clock: Callable[[], float] = time.monotonic) -> ChatService:
    """A service with a cache of 60 s."""
    config = Config(openai_api_key=SERVER_KEY, openai_base_url=upstream.base_url)
    return ChatService(Exchange.in_process(config), config, ResponseCache(max_size, 60, clock=clock))


def cached(chat: ChatService, message: str) -> bool:
    """Tell whether a request with this message is answered from the cache."""
    return chat.process_chat_request(ChatRequest(user_message=message, free_mode=True)).cached


# Every field that shapes the answer, changed; an empty list or "" means the same as leaving it out.
SHAPING: dict[str, Any] = {
    "system_message": "Be kind.",
    "user_message": "hi!",
    "role": "teacher",
    "instructions": "be brief",
    "conversation_history": ["user: before"],
    "memory_context": ["lives in Seoul"],
    "max_tokens": 999,
    "temperature": 0.71,
    "model": "gpt-4o",
    "openai_api_key": CALLER_KEY,
    "response_schema": {"type": "string"},
    "images": ["https://example.com/a.png"],
}
NOT_SHAPING: dict[str, Any] = {
    "session_id": "another session",
    "max_context_tokens": 1000,
    "system_message": "당신은 도움이 되는 AI 어시스턴트입니다.",
    "max_tokens": 1000,
    "temperature": 0.7,
    "model": "gpt-4o-mini",
    "role": None,
    "memory_context": [],
    "openai_api_key": "",
    # A character shapes the answer by what it adds to what is sent: tests/api/test_characters.py.
    "character": "",
    "user_name": "도윤",
}


def test_an_answer_is_kept_for_its_time(upstream: Upstream) -> None:
    """Until the time is up, and not renewed by being read."""
    clock = FakeClock()
    chat = make_service(upstream, clock=clock)
    seen = []
    for seconds in (0, 30, 29, 2, 59, 2):
        clock.now += seconds
        seen.append(cached(chat, "hi"))
    assert seen == [False, True, True, False, True, False]


def test_the_size_is_bounded(upstream: Upstream) -> None:
    """One answer more than fits pushes out the least recently used."""
    chat = make_service(upstream, max_size=2)
    assert [cached(chat, message) for message in "abacacb"] == [False, False, True, False, True, True, False]


def test_only_what_cannot_change_is_kept(upstream: Upstream) -> None:
    """The cache holds digests and frozen completions: no key, no object that a request could change."""
    cache = ResponseCache[Completion](10, 60)
    config = Config(openai_api_key=SERVER_KEY, openai_base_url=upstream.base_url)
    ChatService(Exchange.in_process(config), config, cache).process_chat_request(
        ChatRequest(user_message="hi", openai_api_key=CALLER_KEY)
    )
    ((key, answer),) = cache._answers.items()
    assert (type(key), len(key), type(answer)) == (bytes, 32, Completion)
    assert hash(answer) == hash(dataclasses.replace(answer))
    assert CALLER_KEY.encode() not in key
    assert CALLER_KEY not in repr(answer)


def test_every_field_of_a_request_is_one_or_the_other() -> None:
    """A new field must say whether it shapes the answer."""
    others = {
        "free_mode",
        "stream",
        "segments",
        "segment_tags",
        "upstream",
        "remember",
        "user",
        "character",
        "user_name",
    }
    assert set(ChatRequest.__dataclass_fields__) - SHAPING.keys() - NOT_SHAPING.keys() <= others


def test_parts_of_a_key_cannot_run_together() -> None:
    """Each part stands behind its length."""
    lists: list[list[bytes]] = [[b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""], [b"", b"abc"], []]
    cache = ResponseCache[bytes](1, 1)
    assert len({cache.key(*parts) for parts in lists}) == len(lists)
    assert cache.key(*lists[0]) != ResponseCache[bytes](1, 1).key(*lists[0])


def test_a_follower_waits_no_longer_than_its_deadline(threads: ThreadPoolExecutor) -> None:
    """Who waits for another's call still has a deadline of its own; the leader is not disturbed."""
    cache, follower_left = ResponseCache[bytes](10, 60), threading.Event()

    def slow() -> tuple[bytes, bytes]:
        assert follower_left.wait(30)
        return b"key", b"answer"

    leader = threads.submit(cache.get_or_fetch, b"key", Call(10), slow)
    while not cache._under_way:
        time.sleep(0.001)
    with pytest.raises(OpenAIClientException) as caught:
        cache.get_or_fetch(b"key", Call(0.1), pytest.fail)
    assert caught.value.error_code == "upstream_timeout"
    follower_left.set()
    assert leader.result() == (b"answer", False)
    assert cache.get_or_fetch(b"key", Call(1), pytest.fail) == (b"answer", True)
    assert cache._under_way == {}
