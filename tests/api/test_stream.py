"""The native event stream: what callers read when upstream streams well, badly, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.upstreams.slots import Slots
from app.web.services import service
from tests.conftest import CALLER_KEY
from tests.streams import (
    blocks,
    chunk,
    completed,
    completion_events,
    delta,
    event,
    read_events,
    response_events,
    stream,
)
from tests.streams import typed as typed_event
from tests.upstream import Upstream, delayed, error_document, pieces, reply, response_document, silence

CHAT = "/api/v1/chat"


def ask(client: FlaskClient, **fields: Any) -> Any:
    return client.post(CHAT, json={"user_message": "hi", "free_mode": True, "stream": True} | fields)


def slots_in_use(app: Flask) -> int:
    return int(service(Slots, app).in_use)


def test_a_good_stream(client: FlaskClient, upstream: Upstream) -> None:
    """start, the pieces, then one done that is the whole chat response with its timings."""
    upstream.script(stream(response_events("서울은 ", "수도", "입니다 😀")))
    answer = ask(client, session_id="s-1")
    assert answer.content_type == "text/event-stream; charset=utf-8"
    assert (answer.headers["X-Accel-Buffering"], answer.headers["X-Request-ID"] != "") == ("no", True)
    events = read_events(answer.data)
    assert [name for name, _ in events] == ["start", "delta", "delta", "delta", "done"]
    assert events[0][1] == {
        "request_id": answer.headers["X-Request-ID"],
        "session_id": "s-1",
        "model": "gpt-4o-mini",
        "api_key_source": "default",
    }
    assert "".join(data["text"] for name, data in events if name == "delta") == "서울은 수도입니다 😀"
    done = events[-1][1]
    assert (done["response_text"], done["total_tokens_used"], done["success"]) == ("서울은 수도입니다 😀", 18, True)
    assert set(done["server_timing"]) == {"queue", "assemble", "upstream", "total", "overhead"}
    assert answer.data.rstrip().rsplit(b"\n", 1)[-1].startswith(b": server-timing queue;dur=")
    assert upstream.received[0].json["stream"] is True


def test_accept_alone_does_not_switch(client: FlaskClient) -> None:
    """Only `stream: true` asks for a stream."""
    answer = client.post(CHAT, json={"user_message": "hi", "free_mode": True}, headers={"Accept": "text/event-stream"})
    assert answer.content_type == "application/json"


def test_free_mode_falls_back_in_a_stream(client: FlaskClient, upstream: Upstream) -> None:
    """A refused caller's key is replaced by the server's before the stream starts."""
    upstream.script(reply(401, error_document("invalid_api_key")), stream(response_events("ok")))
    events = read_events(ask(client, openai_api_key=CALLER_KEY).data)
    assert events[0][1]["api_key_source"] == events[-1][1]["api_key_source"] == "default"


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (reply(400, error_document()), 400, "upstream_rejected_request"),
        (reply(404, error_document("model_not_found")), 404, "model_not_found"),
        (reply(401, error_document()), 503, "server_credentials_rejected"),
        (reply(429, error_document("insufficient_quota")), 503, "server_quota_exhausted"),
        (pieces([b""]), 502, "upstream_connection_error"),
    ],
)
def test_a_fault_before_the_first_byte_is_an_ordinary_error(
    client: FlaskClient, upstream: Upstream, answer: Any, status: int, code: str
) -> None:
    """Nothing has been sent yet, so the status can still tell."""
    upstream.default = answer
    problem = ask(client)
    assert (problem.status_code, problem.content_type) == (status, "application/problem+json")
    assert problem.get_json()["code"] == code


def test_bad_input_is_an_ordinary_error(client: FlaskClient, upstream: Upstream) -> None:
    """A stream that breaks a rule never starts."""
    assert ask(client, temperature=3).status_code == 422
    assert client.post(CHAT, json={"user_message": "hi", "stream": True}).status_code == 401
    assert not upstream.received


FAULTS: list[tuple[str, list[bytes], str]] = [
    ("cut", [delta("half")], "upstream_connection_error"),
    ("cut inside an event", [delta("half"), delta("more")[:40]], "upstream_bad_response"),
    ("error event", [delta("half"), event({"type": "error", "code": "server_error"}, "error")], "upstream_failed"),
    (
        "response.failed",
        [delta("half"), typed_event("response.failed", response={"status": "failed", "error": {"code": "x"}})],
        "upstream_failed",
    ),
    ("bad JSON", [delta("half"), event("{nope"), completed("half")], "upstream_bad_response"),
    ("list instead of object", [delta("half"), event([1])], "upstream_bad_response"),
    ("bad UTF-8", [delta("half"), b'data: {"type":"\xff"}\n\n'], "upstream_bad_response"),
    ("deep JSON", [delta("half"), event("[" * 100_000)], "upstream_bad_response"),
    ("JSON instead of events", [b'{"id": "resp_1", "status": "completed"}'], "upstream_bad_response"),
    ("HTML", [b"<html>\n\n<body>no</body></html>"], "upstream_bad_response"),
    ("nothing", [], "upstream_bad_response"),
    ("completed without text", [completed("")], "upstream_bad_response"),
    ("event beyond any bound", [b"data: " + b"x" * (9 * 1024 * 1024)], "upstream_bad_response"),
]


@pytest.mark.parametrize("key", [{}, {"openai_api_key": CALLER_KEY, "free_mode": False}], ids=["server", "caller"])
@pytest.mark.parametrize(("parts", "code"), [(parts, code) for _, parts, code in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_in_the_stream_is_one_error_event(
    app: Flask, upstream: Upstream, parts: list[bytes], code: str, key: dict[str, Any]
) -> None:
    """Exactly one error with the problem, no done, the slot free, and the next request works."""
    client = app.test_client()
    upstream.script(stream(parts))
    answer = ask(client, session_id="s-9", **key)
    names = [name for name, _ in read_events(answer.data)]
    assert (answer.status_code, names.count("error"), names.count("done")) == (200, 1, 0)
    assert names[-1] == "error"
    problem = read_events(answer.data)[-1][1]
    assert (problem["code"], problem["session_id"], problem["success"]) == (code, "s-9", False)
    assert slots_in_use(app) == 0
    upstream.script(stream(response_events("fine")))
    assert read_events(ask(client, **key).data)[-1][1]["response_text"] == "fine"


def test_a_stalled_stream_ends_at_the_deadline(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Silence in the middle is an error event at the total deadline; keepalives go on until then."""
    upstream.script(stream([delta("half")], pause=30))
    answer = ask(make_app(request_timeout=1, keepalive_seconds=0.2).test_client())
    assert read_events(answer.data)[-1][1]["code"] == "upstream_timeout"
    assert answer.data.count(b": keepalive\n") >= 3


def test_keepalives_come_before_upstream_answers(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """A slow start does not leave the connection idle; a failure after that is an error event."""
    upstream.script(delayed(0.5, stream(response_events("late"))), delayed(0.5, reply(400, error_document())))
    client = make_app(keepalive_seconds=0.1).test_client()
    answer = ask(client)
    assert answer.data.startswith(b": keepalive\n")
    assert read_events(answer.data)[-1][1]["response_text"] == "late"
    assert read_events(ask(client).data)[0][1]["code"] == "upstream_rejected_request"


def test_a_silent_upstream_is_a_timeout(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Before the first byte, the deadline is an ordinary 504."""
    upstream.default = silence()
    assert ask(make_app(request_timeout=0.5).test_client()).status_code == 504


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_text_is_exact_however_it_is_cut(client: FlaskClient, upstream: Upstream, line_end: str) -> None:
    """Comments and unknown events are passed over; one-byte pieces, split UTF-8 and any line end change nothing."""
    whole = b"".join(
        [
            f": hello{line_end}{line_end}".encode(),
            delta("가 \u2028나\n", line_end=line_end),
            typed_event("response.some.future.event", line_end=line_end, x=1),
            delta("\U0001f600다", line_end=line_end),
            completed("가 \u2028나\n\U0001f600다"),
        ]
    )
    upstream.script(stream([bytes([byte]) for byte in whole]))
    events = read_events(ask(client).data)
    assert "".join(data["text"] for name, data in events if name == "delta") == "가 \u2028나\n\U0001f600다"
    assert events[-1][0] == "done"


def test_a_surrogate_pair_cut_between_two_events_is_joined(client: FlaskClient, upstream: Upstream) -> None:
    """Half a pair waits for the other; one that never comes is replaced."""
    halves = [
        event('{"type": "response.output_text.delta", "delta": "a\\ud83d"}'),
        event('{"type": "response.output_text.delta", "delta": "\\ude00b\\ud83d"}'),
    ]
    upstream.script(stream([*halves, completed("x")]))
    events = read_events(ask(client).data)
    assert "".join(data["text"] for name, data in events if name == "delta") == "a\U0001f600b\ufffd"


def test_a_cached_answer_streams_too(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Plain and streamed requests share one kept answer."""
    client = make_app(cache_enabled=True).test_client()
    upstream.script(stream(response_events("kept ", "words")))
    ask(client)
    again = ask(client, session_id="other")
    assert again.headers["X-Cache"] == "hit"
    events = read_events(again.data)
    assert [name for name, _ in events] == ["start", "delta", "done"]
    assert (events[-1][1]["cached"], events[-1][1]["session_id"]) == (True, "other")
    plain = ask(client, stream=False).get_json()
    assert (plain["cached"], plain["response_text"]) == (True, "kept words")
    assert len(upstream.received) == 1


def test_streams_do_not_mix(client: FlaskClient, upstream: Upstream) -> None:
    """Many streams at once: each caller reads its own text."""

    async def echo_stream(received: Any, writer: Any) -> None:
        word = received.json["input"][-1]["content"]
        await stream(response_events(*([word] * 20)), pause=0.001)(received, writer)

    upstream.default = echo_stream
    answers: dict[str, str] = {}

    def one(word: str) -> None:
        answers[word] = read_events(ask(client, user_message=word).data)[-1][1]["response_text"]

    threads = [threading.Thread(target=one, args=(f"nonce-{n};",)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {f"nonce-{n};": f"nonce-{n};" * 20 for n in range(20)}


def test_an_upstream_that_knows_only_chat_completions(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """UPSTREAM_API=chat_completions: the native route asks there, plain and streamed."""
    client = make_app(upstream_api="chat_completions").test_client()
    message = {"role": "assistant", "content": "plain"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    choices = [{"index": 0, "message": message, "finish_reason": "length"}]
    upstream.script(
        reply(200, {"id": "c-1", "model": "m", "created": 1, "choices": choices, "usage": usage}),
        stream(completion_events("stre", "amed")),
    )
    plain = ask(client, stream=False).get_json()
    assert (plain["response_text"], plain["finish_reason"], plain["total_tokens_used"]) == ("plain", "length", 5)
    done = read_events(ask(client).data)[-1][1]
    assert (done["response_text"], done["input_tokens"], done["finish_reason"]) == ("streamed", 11, "stop")
    sent = upstream.received[1]
    assert (sent.path, sent.json["messages"][-1]) == ("/v1/chat/completions", {"role": "user", "content": "hi"})
    assert sent.json["stream_options"] == {"include_usage": True}


def test_usage_of_groq(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """It stands in `x_groq` of the last chunk, also where the native route makes a whole answer of the stream."""
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    end = {"id": "c-1", "x_groq": {"usage": usage}, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    upstream.script(stream([chunk("fast"), event(end), event("[DONE]")]))
    done = read_events(ask(make_app(upstream_api="chat_completions").test_client()).data)[-1][1]
    assert (done["response_text"], done["input_tokens"], done["output_tokens"]) == ("fast", 11, 7)


HALF, DONE = chunk("half"), event("[DONE]")
FINISHED = chunk(finish_reason="stop")
PING, EMPTY = event({"type": "ping"}, "ping"), b"data:\n\ndata: \n\n"


@pytest.mark.parametrize(
    ("parts", "end"),
    [
        ([HALF, FINISHED, DONE], "done"),
        ([HALF, FINISHED], "done"),
        ([HALF, DONE], "done"),
        ([EMPTY, PING, HALF, PING, EMPTY, FINISHED, EMPTY, PING, DONE], "done"),
        ([HALF, event("pong", "ping"), DONE], "done"),
        ([HALF], "error"),
        ([HALF, PING, EMPTY], "error"),
        ([HALF, FINISHED, HALF[:30]], "error"),
        ([HALF, chunk(finish_reason="error"), DONE], "error"),
        ([HALF, chunk(finish_reason="insufficient_system_resource"), DONE], "error"),
        ([HALF, chunk(finish_reason="stop", error={"code": "overloaded"}), DONE], "error"),
        ([DONE], "error"),
    ],
)
def test_how_a_stream_of_chunks_may_end(
    make_app: Callable[..., Flask], upstream: Upstream, parts: list[bytes], end: str
) -> None:
    """With `[DONE]`, or with a finish reason and a clean end; a cut one is an error, whatever pings it had."""
    client = make_app(upstream_api="chat_completions").test_client()
    upstream.script(stream(parts))
    last = read_events(ask(client).data)[-1]
    assert last[0] == end
    assert end == "error" or (last[1]["response_text"], last[1]["finish_reason"]) == ("half", "stop")


@pytest.mark.parametrize("framing", ["Content-Length: 9000", "Transfer-Encoding: chunked"])
def test_a_finish_reason_and_then_a_cut_is_no_end(
    make_app: Callable[..., Flask], upstream: Upstream, framing: str
) -> None:
    """The body has to end cleanly: what it announced has to come."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n".encode()
    body = HALF + FINISHED
    upstream.script(pieces([head, b"%x\r\n%b\r\n" % (len(body), body) if "chunked" in framing else body]))
    client = make_app(upstream_api="chat_completions").test_client()
    assert read_events(ask(client).data)[-1][1]["code"] == "upstream_connection_error"


LAST = [
    typed_event("response.completed", response={"status": "completed", "usage": {"input_tokens": 4}}),
    typed_event("response.completed", response=response_document("", output=None, usage={"input_tokens": 4})),
    typed_event("response.completed", response=response_document("", output=[], usage={"input_tokens": 4})),
    typed_event("response.completed"),
    event("[DONE]"),
]


@pytest.mark.parametrize("last", LAST)
def test_what_the_deltas_brought_counts(client: FlaskClient, upstream: Upstream, last: bytes) -> None:
    """Also where the last event of a Responses stream lacks it; what earlier events told of the response stays."""
    told = {"id": "resp_9", "model": "told", "usage": {"input_tokens": 4}}
    upstream.script(stream([typed_event("response.created", response=told), delta("가"), delta("나"), last]))
    done = read_events(ask(client).data)[-1]
    assert done[0] == "done"
    assert (done[1]["response_text"], done[1]["input_tokens"], done[1]["finish_reason"]) == ("가나", 4, "stop")
    assert done[1]["model"] in {"told", "gpt-4o-mini-2024"}


def test_a_refusal_in_deltas_is_a_content_filter(client: FlaskClient, upstream: Upstream) -> None:
    """As it is where the last event holds it."""
    refused = typed_event("response.refusal.delta", delta="No.")
    upstream.script(stream([refused, typed_event("response.completed", response={"status": "completed"})]))
    done = read_events(ask(client).data)[-1][1]
    assert (done["response_text"], done["finish_reason"]) == ("No.", "content_filter")


def test_comments_are_no_events(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """A decoder that takes each blank line for the end of an event gets no more events than the stream has."""
    upstream.script(delayed(0.3, stream(response_events("a", "b"), pause=0.15)), stream([delta("half")]))
    client = make_app(keepalive_seconds=0.05).test_client()
    good, bad = ask(client).data, ask(client).data
    assert good.count(b": keepalive\n") >= 3
    assert [data is None for data in blocks(good)] == [False] * 4
    assert [data is None for data in blocks(bad)] == [False] * 3
