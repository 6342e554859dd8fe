"""Segments on the native stream: beside the deltas, in time, from the cache, and when they may be asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.streams import completed, delta, read_events, response_events, stream
from tests.upstream import Upstream

CHAT = "/api/v1/chat"
PIECES = ("[hap", "py] 안녕", "하세요! ", "원주율은", " 3.", "14예요.", " [sad]", " 안 끝났", "어요")


def ask(client: FlaskClient, **fields: Any) -> Any:
    return client.post(CHAT, json={"user_message": "hi", "free_mode": True, "stream": True} | fields)


def told(answer: Any) -> list[tuple[str, Any]]:
    """The events of a stream, of deltas their text alone, of segments without their index."""
    events = []
    for name, data in read_events(answer.data):
        if name == "segment":
            assert list(data) == ["index", "text", "start", "end", "tag"]
            assert data["index"] == sum(known == "segment" for known, _ in events)
            data = (data["text"], data["start"], data["end"], data["tag"])
        events.append((name, data["text"] if name == "delta" else data))
    return events


def test_segments_come_beside_the_deltas(client: FlaskClient, upstream: Upstream) -> None:
    """Each with the delta behind its end, the rest before `done`; deltas and answer are as without them."""
    upstream.script(stream(response_events(*PIECES)))
    events = told(ask(client, segments=True, segment_tags=["happy", "sad"]))
    names = [name for name, _ in events]
    assert names == ["start", *["delta"] * 4, "segment", *["delta"] * 3, "segment", *["delta"] * 2, "segment", "done"]
    assert [data for name, data in events if name == "segment"] == [
        (" 안녕하세요! ", 0, 15, "happy"),
        ("원주율은 3.14예요. ", 15, 28, None),
        (" 안 끝났어요", 28, 40, "sad"),
    ]
    assert tuple(data for name, data in events if name == "delta") == PIECES
    assert events[-1][1]["response_text"] == "".join(PIECES)


def test_a_stream_without_segments_is_as_it_was(client: FlaskClient, upstream: Upstream) -> None:
    """To the byte, but for what differs in each stream; with them only their events are more."""

    def plain(answer: Any) -> bytes:
        body = re.sub(rb"event: segment\ndata: .*\n\n", b"", answer.data)
        return re.sub(rb'"(request_id|created_at|response_time|server_timing)":[^,}]*|: server-timing.*', b"", body)

    answers = []
    for fields in (
        {},
        {"segments": False, "segment_tags": []},
        {"segments": None, "segment_tags": None},
        {"segments": True},
    ):
        upstream.script(stream(response_events(*PIECES)))
        answers.append(ask(client, **fields))
    assert [answer.data.count(b"event: segment") for answer in answers] == [0, 0, 0, 3]
    assert len({re.sub(rb"dur=[\d.]+|\d+\.\d+", b"", plain(answer)) for answer in answers}) == 1


def test_a_cached_answer_is_segmented(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """As the first one was, whoever asked for it in which form; a long one, too."""
    client = make_app(cache_enabled=True).test_client()
    upstream.script(stream(response_events(*PIECES)), stream(response_events("네. " * 2_000)))
    first = ask(client, segments=True)
    again = ask(client, segments=True)
    assert (first.headers.get("X-Cache"), again.headers["X-Cache"]) == (None, "hit")
    cut = [event for event in told(again) if event[0] == "segment"]
    assert (len(cut), cut) == (3, [event for event in told(first) if event[0] == "segment"])
    tagged = told(ask(client, segments=True, segment_tags=["sad"]))
    assert [data[3] for name, data in tagged if name == "segment"] == [None, None, "sad"]
    assert len(upstream.received) == 1
    ask(client, user_message="long")
    long = told(ask(client, user_message="long", segments=True))
    assert sum(name == "segment" for name, _ in long) == 2_000


def test_a_stream_that_fails_has_only_whole_segments(client: FlaskClient, upstream: Upstream) -> None:
    """What was not at its end is not spoken."""
    upstream.script(stream([delta("하나. 둘. "), delta("셋")]))
    events = told(ask(client, segments=True))
    assert [data[0] for name, data in events if name == "segment"] == ["하나. ", "둘. "]
    assert events[-1][0] == "error"


def test_an_answer_without_deltas_is_segmented(client: FlaskClient, upstream: Upstream) -> None:
    """Some upstreams tell it in their last event alone."""
    upstream.script(stream([completed("하나. 둘.")]))
    events = told(ask(client, segments=True))
    assert [data[0] for name, data in events if name == "segment"] == ["하나. ", "둘."]
    assert events[-1][0] == "done"


TAGS = {"stream": True, "segments": True}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"segments": True}, "segments"),
        ({"segments": True, "stream": None}, "segments"),
        (TAGS | {"response_schema": {}}, "segments"),
        ({"segments": "yes", "stream": True}, "segments"),
        ({"segment_tags": ["happy"]}, "segment_tags"),
        ({"segment_tags": ["happy"], "stream": True, "segments": False}, "segment_tags"),
        *[(TAGS | {"segment_tags": [tag]}, "segment_tags") for tag in ("", "a" * 33, "[a", "a]", "\0", 1, None)],
        (TAGS | {"segment_tags": ["a"] * 65}, "segment_tags"),
        (TAGS | {"segment_tags": "happy"}, "segment_tags"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, f"{CHAT}/preview"])
def test_segments_that_break_a_rule(
    client: FlaskClient, upstream: Upstream, path: str, fields: dict[str, Any], field: str
) -> None:
    """422 naming the field; the stream never starts."""
    answer = client.post(path, json={"user_message": "hi", "free_mode": True} | fields)
    assert (answer.status_code, list(answer.get_json()["errors"]["json"])) == (422, [field])
    assert not upstream.received


def test_segments_at_their_limits(client: FlaskClient, upstream: Upstream) -> None:
    """64 tags of 32 characters, and names with white space and in Korean."""
    upstream.script(stream(response_events("[매우 기쁨] 네.")))
    tags = ["매우 기쁨", *[f"{number:032}" for number in range(63)]]
    events = told(ask(client, segments=True, segment_tags=tags, response_schema=None))
    assert events[-2] == ("segment", (" 네.", 0, 10, "매우 기쁨"))
