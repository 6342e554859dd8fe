"""What only passes is not held: events, embeddings and pictures that are larger than the worker wants to keep."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.upstreams.slots import Slots
from app.web.services import service
from tests.conftest import CALLER_KEY
from tests.records import settled
from tests.streams import HEAD, chunk, delta, event, read_events, response_events, stream, typed
from tests.upstream import Answer, Upstream, pieces, reply

RESPONSES, COMPLETIONS, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
OWN = {"Authorization": f"Bearer {CALLER_KEY}"}
MEGABYTE = 1024 * 1024
BLOCK = b"A" * MEGABYTE
USAGE = {"input_tokens": 9000, "output_tokens": 40, "total_tokens": 9040}


def blocks_between(before: bytes, megabytes: int, after: bytes) -> list[bytes]:
    """A long body in parts that are all the same object."""
    return [before, *[BLOCK] * megabytes, after]


def long_event(kind: str, megabytes: int, *, line_end: bytes = b"\n") -> list[bytes]:
    """An event of the Responses API with a picture in base64, and its usage at the end."""
    usage = json.dumps(USAGE).encode()
    data = b'{"type":"%b","response":{"output":[{"result":"' % kind.encode(), b'"}],"usage":%b}}' % usage
    return blocks_between(
        b"event: %b%bdata: %b" % (kind.encode(), line_end, data[0]), megabytes, data[1] + line_end * 2
    )


def plain(parts: list[bytes], *, announced: int = 0) -> Answer:
    """A plain answer that announces its length."""
    length = sum(map(len, parts)) + announced
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
    return pieces([head, *parts])


class Read:
    """What a caller reads of a long body without keeping it: its first and last bytes, its length, what it cost us."""

    def __init__(self, client: FlaskClient, path: str, body: dict[str, Any]) -> None:
        tracemalloc.start()
        self.answer = client.post(path, json=body, headers=OWN, buffered=False)
        self.length, self.first, self.last = 0, b"", b""
        for piece in self.answer.iter_encoded():
            self.length += len(piece)
            self.first = (self.first + piece)[:1024]
            self.last = (self.last + piece)[-4096:]
        self.answer.close()
        self.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def test_a_large_answer_passes_unheld(app: Flask, upstream: Upstream, database_url: str) -> None:
    """60 MB, of which no more than a few are in memory at once; the usage at its end is in the row."""
    parts = blocks_between(
        b'{"data": [{"embedding": "', 60, b'"}], "model": "m", "usage": %b}' % json.dumps(USAGE).encode()
    )
    upstream.script(plain(parts))
    read = Read(app.test_client(), EMBEDDINGS, {})
    assert (read.answer.status_code, read.answer.content_type) == (200, "application/json")
    assert (read.length, read.last.endswith(parts[-1])) == (sum(map(len, parts)), True)
    assert read.peak < 40 * MEGABYTE
    (row,) = settled(database_url)
    assert (row["status"], row["input_tokens"], row["estimated"]) == ("ok", 9000, 0)
    assert service(Slots, app).in_use == 0


def test_a_large_event_passes_unheld(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Between events that are whole, which pass as ever; it may be the last one, which holds the usage."""
    item, last = long_event("response.output_item.done", 30), long_event("response.completed", 30)
    upstream.script(stream([delta("a"), *item, delta("b"), *last]))
    read = Read(app.test_client(), RESPONSES, {"stream": True})
    length = sum(map(len, (delta("a"), *item, delta("b"), *last)))
    assert read.first.startswith(delta("a"))
    assert b"event: error" not in read.last
    assert read.last.split(b"\n: server-timing")[0].endswith(last[-1].rstrip() + b"\n")
    assert read.length - len(read.last.split(last[-1])[1]) == length
    assert read.peak < 60 * MEGABYTE
    (row,) = settled(database_url)
    assert (row["status"], row["input_tokens"], row["estimated"]) == ("ok", 9000, 0)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [7, 9])
def test_every_byte_of_large_events_passes(client: FlaskClient, upstream: Upstream, line_end: bytes, size: int) -> None:
    """Whatever its line ends, and wherever it is cut."""
    events = b"".join([*long_event("x.y", size, line_end=line_end), *response_events("z")])
    upstream.script(stream([events[i : i + 99_991] for i in range(0, len(events), 99_991)]))
    assert client.post(RESPONSES, json={"stream": True}, headers=OWN).data.startswith(events + b": server-timing")


@pytest.mark.parametrize(
    "parts",
    [
        [*long_event("response.output_item.done", 9)],
        [*long_event("response.completed", 9)[:-1]],
        [delta("a"), *long_event("response.completed", 9)[:-1]],
    ],
)
def test_a_large_event_that_is_cut_is_an_error(client: FlaskClient, upstream: Upstream, parts: list[bytes]) -> None:
    """One more event says so, behind a blank line of its own."""
    upstream.script(stream(parts))
    body = client.post(RESPONSES, json={"stream": True}, headers=OWN).data
    assert body.count(b"\n\nevent: error\n") == 1
    assert b'"code":"upstream_connection_error"' in body[-2048:]


def test_a_large_answer_that_is_cut_does_not_end(app: Flask, upstream: Upstream, database_url: str) -> None:
    """The caller cannot take it for whole; the row says what happened."""
    upstream.script(plain(blocks_between(b'{"x": "', 12, b""), announced=100))
    with pytest.raises(Exception, match="connection to the AI service failed"):
        Read(app.test_client(), COMPLETIONS, {})
    assert [row["code"] for row in settled(database_url)] == ["upstream_connection_error"]
    assert service(Slots, app).in_use == 0


def endless(head: bytes, part: bytes) -> Answer:
    """A body that goes on for 90 MB."""

    def parts() -> Iterator[bytes]:
        yield head
        for _ in range(90):
            yield part

    return pieces(parts())


@pytest.mark.parametrize("path", ["/api/v1/chat", COMPLETIONS])
@pytest.mark.parametrize("head", [HEAD, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"])
def test_what_a_plain_request_did_not_ask_for_is_bounded(
    app: Flask, upstream: Upstream, path: str, head: bytes
) -> None:
    """An event stream or a page without end."""
    upstream.script(endless(head, b"data: {}\n\n" * 100_000))
    fields = {"user_message": "hi", "free_mode": True} if path.startswith("/api") else {}
    read = Read(app.test_client(), path, fields)
    assert (read.answer.status_code, b"upstream_bad_response" in read.last) == (502, True)
    assert read.peak < 40 * MEGABYTE


def test_a_native_stream_holds_no_more_than_it_may(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """The answer is given as a whole at its end, so its length is bounded."""
    upstream.script(stream([delta("a" * MEGABYTE)] * 12))
    body = (
        make_app()
        .test_client()
        .post("/api/v1/chat", json={"user_message": "x", "free_mode": True, "stream": True})
        .data
    )
    assert read_events(body)[-1][1]["code"] == "upstream_bad_response"


def test_the_text_of_a_passing_stream_is_counted_and_not_kept(
    app: Flask, upstream: Upstream, database_url: str
) -> None:
    """40 MB of text are an estimate of tokens."""
    upstream.script(stream([*[chunk("a" * MEGABYTE)] * 40, chunk(finish_reason="stop"), event("[DONE]")]))
    read = Read(app.test_client(), COMPLETIONS, {"stream": True})
    assert read.peak < 20 * MEGABYTE
    (row,) = settled(database_url)
    assert (row["output_tokens"], row["estimated"]) == (10 * MEGABYTE, 1)


@pytest.mark.parametrize("tail", [b'"usage": 7}', b'"usage":', b"", b'\\"usage\\": {"input_tokens": 1}"}'])
def test_a_tail_without_usage(client: FlaskClient, upstream: Upstream, database_url: str, tail: bytes) -> None:
    """What cannot be read, and what a model wrote, is no count."""
    upstream.script(plain(blocks_between(b'{"x": "', 9, b'", ' + tail)))
    assert client.post(COMPLETIONS, json={}, headers=OWN).data.endswith(tail)
    assert [(row["status"], row["output_tokens"]) for row in settled(database_url)] == [("ok", 0)]


def test_a_small_answer_is_checked_as_ever(client: FlaskClient, upstream: Upstream) -> None:
    """It is a JSON object, or it is refused."""
    upstream.script(reply(200, b"[]"), typed_as_json())
    assert client.post(COMPLETIONS, json={}, headers=OWN).status_code == 502
    assert client.post(COMPLETIONS, json={}, headers=OWN).status_code == 502


def typed_as_json() -> Answer:
    """An event stream in answer to a plain request."""
    return stream([typed("response.completed")])
