"""OpenAI's routes: bodies pass as they come, keys and errors are ours, streams are byte-exact."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.upstreams.slots import Slots
from app.web.services import service
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.records import settled
from tests.streams import blocks, chunk, completed, completion_events, delta, event, response_events, stream
from tests.streams import typed as typed_event
from tests.upstream import Upstream, delayed, error_document, pieces, reply, reset, silence

RESPONSES, COMPLETIONS, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
FREE = {"X-Free-Mode": "true"}
OWN = {"Authorization": f"Bearer {CALLER_KEY}"}


@pytest.mark.parametrize("path", [RESPONSES, COMPLETIONS, EMBEDDINGS])
def test_bodies_pass_as_they_come(client: FlaskClient, upstream: Upstream, path: str) -> None:
    """Spaces, order, unknown fields and number forms of the request, and every byte of the answer, stay."""
    sent = '{ "model":"m", "future_field" : {"x": [1.0, 1e3, "\\ud55c"]},\n"tools":[], "input":"안녕" }'.encode()
    answered = b'{"id": "x",   "usage": {"input_tokens": 3}, "future": 1.0}\n'
    upstream.script(reply(200, answered, {"X-Request-Id": "req_up", "X-RateLimit-Remaining-Requests": "9"}))
    answer = client.post(path, data=sent, content_type="application/json", headers=OWN)
    assert (answer.status_code, answer.data) == (200, answered)
    assert (upstream.received[0].body, upstream.received[0].path) == (sent, path)
    assert upstream.received[0].key == CALLER_KEY
    assert answer.headers["X-Upstream-Request-ID"] == "req_up"
    assert answer.headers["X-Request-ID"] not in {"", "req_up"}
    assert client.get(f"/api/v1/usage/requests/{answer.headers['X-Request-ID']}").status_code == 200
    assert answer.headers["X-RateLimit-Remaining-Requests"] == "9"
    assert answer.headers["Server-Timing"].startswith("queue;dur=")


@pytest.mark.parametrize("streamed", [False, True])
def test_only_named_headers_of_upstream_pass(client: FlaskClient, upstream: Upstream, streamed: bool) -> None:
    """Nothing that says whose account pays, no cookie, no address, and nothing that nobody has thought of."""
    passed = {"OpenAI-Version": "2020-10-01", "OpenAI-Processing-Ms": "5", "X-RateLimit-Limit-Requests": "9"}
    kept = {
        "OpenAI-Organization": "org-ours",
        "OpenAI-Project": "proj-ours",
        "Set-Cookie": "session=ours",
        "Location": "/elsewhere",
        "X-Unheard-Of": "ours",
    }
    headers = passed | kept | ({"Content-Type": "text/event-stream"} if streamed else {})
    upstream.default = reply(200, b"".join(response_events("x")) if streamed else b"{}", headers)
    answer = client.post(RESPONSES, json={"stream": streamed}, headers=OWN)
    assert answer.status_code == 200
    assert answer.data.startswith(b"event: " if streamed else b"{}")
    assert {name: answer.headers.get(name) for name in passed} == passed
    assert [name for name in kept if name in answer.headers] == []


LIMITS_OF_AN_ACCOUNT = {
    "X-RateLimit-Limit-Requests": "9",
    "X-RateLimit-Remaining-Tokens": "7",
    "X-RateLimit-Reset-Project-Tokens": "1s",
    "OpenAI-Unheard-Of": "ours",
    "Anthropic-RateLimit-Input-Tokens-Remaining": "7",
}


@pytest.mark.parametrize("kind", ["plain", "streamed", "listing", "refused", "fallback"])
def test_the_limits_of_our_account_are_not_the_callers(client: FlaskClient, upstream: Upstream, kind: str) -> None:
    """They pass where the caller's own key paid, and not where the server's did, though both were tried."""
    told = LIMITS_OF_AN_ACCOUNT | {"OpenAI-Version": "2020-10-01", "Content-Type": "application/json"}
    if kind == "streamed":
        told["Content-Type"] = "text/event-stream"
    body = b"".join(response_events("x")) if kind == "streamed" else b'{"data": []}'
    good = reply(400 if kind == "refused" else 200, body, told)

    def limits(headers: dict[str, str]) -> dict[str, str]:
        method, path = ("GET", "/v1/models") if kind == "listing" else ("POST", RESPONSES)
        answer = client.open(path, method=method, json={"stream": kind == "streamed"}, headers=headers)
        assert answer.headers["OpenAI-Version"] == "2020-10-01"
        return {name: answer.headers[name] for name in LIMITS_OF_AN_ACCOUNT if name in answer.headers}

    upstream.default = good
    assert limits(OWN) == LIMITS_OF_AN_ACCOUNT
    if kind == "fallback":
        upstream.script(reply(401, error_document(), LIMITS_OF_AN_ACCOUNT))
    assert limits(FREE | (OWN if kind == "fallback" else {})) == {}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o"])
def test_models_are_upstreams(client: FlaskClient, upstream: Upstream, path: str) -> None:
    """GET routes pass through, with the same key rules."""
    upstream.default = reply(200, {"object": "list", "data": []})
    assert client.get(path, headers=OWN).get_json() == {"object": "list", "data": []}
    assert (upstream.received[0].method, upstream.received[0].path) == ("GET", path)
    assert client.get(path).status_code == 401


def test_a_model_that_upstream_only_lists(client: FlaskClient, upstream: Upstream) -> None:
    """llama.cpp lists its model but answers 404 for it."""
    missing, listed = reply(404, error_document()), reply(200, {"data": [{"id": "smol", "object": "model"}]})
    upstream.script(missing, listed, missing, listed)
    assert client.get("/v1/models/smol", headers=OWN).get_json() == {"id": "smol", "object": "model"}
    assert client.get("/v1/models/other", headers=OWN).get_json()["error"]["code"] == "model_not_found"


def test_a_long_list_of_models(client: FlaskClient, upstream: Upstream) -> None:
    """As OpenRouter's: it passes, and a model that is not in it is looked for once."""
    names = [{"id": f"vendor-{number}/model-with-a-long-name-{number}", "object": "model"} for number in range(5000)]
    listed = reply(200, {"object": "list", "data": names})
    upstream.script(listed, reply(404, error_document()), listed)
    assert client.get("/v1/models", headers=OWN).get_json()["data"] == names
    answer = client.get("/v1/models/nobodys/model", headers=OWN)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "model_not_found")
    assert [received.path for received in upstream.received] == [
        *("/v1/models", "/v1/models/nobodys%2Fmodel", "/v1/models")
    ]


@pytest.mark.parametrize(
    ("headers", "default_free_mode", "status", "keys"),
    [
        (OWN, False, 200, [CALLER_KEY]),
        ({}, False, 401, []),
        ({}, True, 200, [SERVER_KEY]),
        (FREE, False, 200, [SERVER_KEY]),
        ({"X-Free-Mode": "false"}, True, 401, []),
        ({"X-OpenAI-Api-Key": CALLER_KEY}, False, 200, [CALLER_KEY]),
        ({"Authorization": "Bearer llms_not-issued"} | FREE, False, 401, []),
        ({"Authorization": "Bearer llms_x", "X-OpenAI-Api-Key": CALLER_KEY}, False, 401, []),
        ({"Authorization": "Bearer a key"}, True, 422, []),
        ({"Authorization": "Bearer ollama"}, True, 200, [SERVER_KEY]),
        ({"Authorization": "Bearer ollama"}, False, 200, ["ollama"]),
        ({"Authorization": f"Bearer {'j' * 1800}"}, False, 200, ["j" * 1800]),
        ({"X-OpenAI-Api-Key": "llms_0123456789"}, True, 422, []),
        ({"X-Free-Mode": "yes"}, True, 422, []),
    ],
)
def test_whose_key_pays(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    headers: dict[str, str],
    default_free_mode: bool,
    status: int,
    keys: list[str],
) -> None:
    """The same key rules as on the native route, told by headers."""
    upstream.default = reply(200, {"id": "x"})
    client = make_app(openai_door_free_mode=default_free_mode).test_client()
    assert client.post(RESPONSES, json={}, headers=headers).status_code == status
    assert [received.key for received in upstream.received] == keys


@pytest.mark.parametrize(
    ("answer", "status", "kind", "code"),
    [
        (reply(400, b"no"), 400, "invalid_request_error", "upstream_rejected_request"),
        (reply(401), 401, "authentication_error", "api_key_rejected"),
        (reply(403), 403, "permission_error", "upstream_forbidden"),
        (reply(404, error_document("model_not_found")), 404, "some_error", "model_not_found"),
        (reply(429, {}, {"Retry-After": "7"}), 429, "rate_limit_error", "upstream_rate_limited"),
        (reset(), 502, "server_error", "upstream_connection_error"),
        (reply(200, b"<html>"), 502, "server_error", "upstream_bad_response"),
        (reply(200, b"[]"), 502, "server_error", "upstream_bad_response"),
        (silence(), 504, "server_error", "upstream_timeout"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_have_openais_shape(
    make_app: Callable[..., Flask], upstream: Upstream, answer: Any, status: int, kind: str, code: str, streamed: bool
) -> None:
    """SDKs choose their exception by status and read the code: upstream's, and ours where it has none."""
    upstream.default = answer
    answered = make_app(request_timeout=1).test_client().post(COMPLETIONS, json={"stream": streamed}, headers=OWN)
    if streamed and answered.status_code == 200:
        assert b'"code":"upstream_bad_response"' in answered.data
        return
    error = answered.get_json()["error"]
    assert (answered.status_code, error["type"], error["code"]) == (status, kind, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert status != 429 or answered.headers["Retry-After"] == "7"


def test_our_own_refusals_have_openais_shape(client: FlaskClient, upstream: Upstream) -> None:
    """Unknown routes, methods and bodies, too."""
    refusals = [
        (client.get("/v1/nothing"), 404, "not_found"),
        (client.get(RESPONSES), 405, "method_not_allowed"),
        (client.post(RESPONSES, data=b"{", content_type="application/json", headers=OWN), 400, "invalid_json"),
        (client.post(RESPONSES, json=[], headers=OWN), 422, "validation_error"),
        (client.post(RESPONSES, json={"stream": "yes"}, headers=OWN), 422, "validation_error"),
        (client.post(RESPONSES, data=b"{}", content_type="text/plain", headers=OWN), 415, "unsupported_media_type"),
        (client.post(RESPONSES, json={}), 401, "api_key_required"),
    ]
    assert [(answer.status_code, answer.get_json()["error"]["code"]) for answer, _, _ in refusals] == [
        (status, code) for _, status, code in refusals
    ]
    assert not upstream.received


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (RESPONSES, [b": comment\r\n\r\n", *response_events("가", "b"), typed_event("after.the.end", x=1)]),
        (COMPLETIONS, completion_events("가", "b")),
        (COMPLETIONS, [event({"x": 1}, line_end="\r\n"), chunk("\U0001f600"), event("[DONE]", line_end="\r")]),
    ],
)
def test_streams_pass_byte_by_byte(client: FlaskClient, upstream: Upstream, path: str, parts: list[bytes]) -> None:
    """Comments, line ends and unknown events included; behind them only our comment with the timings."""
    whole = b"".join(parts)
    upstream.script(stream([whole[i : i + 3] for i in range(0, len(whole), 3)]))
    answer = client.post(path, json={"stream": True}, headers=OWN)
    assert answer.content_type == "text/event-stream; charset=utf-8"
    assert answer.data.startswith(whole)
    assert answer.data[len(whole) :].startswith(b": server-timing queue;dur=")
    assert b"\n\n" not in answer.data[len(whole) :]
    assert answer.headers["X-Upstream-Request-ID"] == "up-1"
    assert answer.headers["X-Request-ID"] not in {"", "up-1"}


@pytest.mark.parametrize(
    ("path", "parts", "code"),
    [
        (RESPONSES, [delta("half")], "upstream_connection_error"),
        (RESPONSES, [delta("half"), delta("more")[:60]], "upstream_bad_response"),
        (RESPONSES, [delta("half"), event("{nope"), completed("x")], "upstream_bad_response"),
        (RESPONSES, [b'{"status": "completed"}'], "upstream_bad_response"),
        (RESPONSES, [], "upstream_bad_response"),
        (COMPLETIONS, [chunk("half")], "upstream_connection_error"),
        (COMPLETIONS, [chunk("half"), event("[1]"), event("[DONE]")], "upstream_bad_response"),
        (COMPLETIONS, [b"<html>\n\n</html>"], "upstream_bad_response"),
    ],
)
def test_a_fault_in_a_stream_is_one_error_event(
    app: Flask, upstream: Upstream, path: str, parts: list[bytes], code: str
) -> None:
    """One event that both kinds of SDK stream raise on; no end mark of success; the slot is free."""
    upstream.script(stream(parts))
    answer = app.test_client().post(path, json={"stream": True}, headers=OWN)
    errors = [block for block in answer.data.split(b"\n\n") if block.startswith(b"event: error")]
    assert len(errors) == 1
    data = json.loads(errors[0].split(b"data: ", 1)[1])
    assert (data["type"], data["code"], data["error"]["code"]) == ("error", code, code)
    assert b"[DONE]" not in answer.data
    assert b"response.completed" not in answer.data
    assert service(Slots, app).in_use == 0


@pytest.mark.parametrize(
    "end",
    [
        event({"type": "error", "code": "server_error", "message": "m"}, "error"),
        typed_event("response.failed", response={"status": "failed", "error": {"code": "server_error"}}),
        event({"error": {"message": "m", "type": "server_error"}}),
    ],
)
def test_upstreams_own_failure_is_the_end(client: FlaskClient, upstream: Upstream, end: bytes) -> None:
    """It passes as it came; a second error would be one too many."""
    upstream.script(stream([delta("half"), end]))
    answer = client.post(RESPONSES, json={"stream": True}, headers=OWN)
    assert answer.data.startswith(delta("half") + end + b": server-timing")


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("path", "end"), [(COMPLETIONS, "[DONE]"), (RESPONSES, {"type": "response.completed"})])
def test_comments_are_no_events(client: FlaskClient, upstream: Upstream, path: str, end: Any, line_end: str) -> None:
    """A decoder that takes each blank line for the end of an event gets as many events as upstream sent."""
    events = [event({"x": 1}, line_end=line_end), event(end, line_end=line_end)]
    upstream.script(stream(events), stream(events[:1]))
    whole, cut = (client.post(path, json={"stream": True}, headers=OWN).data for _ in range(2))
    assert len(blocks(whole)) == len(blocks(cut)) == 2
    assert None not in blocks(whole) + blocks(cut)


def test_openais_client_reads_events_with_ids(client: FlaskClient, upstream: Upstream) -> None:
    """Its decoder keeps the last `id`, and with one it takes a block of comments for an event."""
    from openai._streaming import SSEDecoder

    events = [b"id: 1\n" + block for block in response_events("a")]
    upstream.script(stream(events))
    body = client.post(RESPONSES, json={"stream": True}, headers=OWN).data
    decoded = list(SSEDecoder().iter_bytes(iter([body])))
    assert len(decoded) == len(events)
    assert all(json.loads(sse.data) for sse in decoded)


@pytest.mark.parametrize("tail", [b"data: [DONE]", b"data: [DONE]\n"])
def test_an_end_without_its_blank_line(client: FlaskClient, upstream: Upstream, tail: bytes) -> None:
    """Nothing of ours is added to the last line of upstream's."""
    upstream.script(stream([chunk("x"), tail]))
    assert client.post(COMPLETIONS, json={"stream": True}, headers=OWN).data == chunk("x") + tail


def test_an_event_that_was_not_ended_takes_nothing_of_ours(client: FlaskClient, upstream: Upstream) -> None:
    """The error is an event of its own."""
    upstream.script(stream([chunk("x").removesuffix(b"\n\n")]))
    first, error = blocks(client.post(COMPLETIONS, json={"stream": True}, headers=OWN).data)
    assert json.loads(first or "")["choices"]
    assert json.loads(error or "")["code"] == "upstream_connection_error"


TWO_CHOICES = [event({"choices": [{"index": n, "delta": {}, "finish_reason": None}]}) for n in (0, 1)]


@pytest.mark.parametrize(
    ("parts", "is_whole"),
    [
        ([chunk("x"), chunk(finish_reason="stop")], True),
        ([*TWO_CHOICES, chunk(finish_reason="stop")], False),
        ([*TWO_CHOICES, chunk(finish_reason="stop", index=1), chunk(finish_reason="length")], True),
        ([chunk("x"), b"event: ping\ndata: {}\n\n", b"data:\n\n"], False),
    ],
)
def test_a_stream_without_its_last_event(
    client: FlaskClient, upstream: Upstream, parts: list[bytes], is_whole: bool
) -> None:
    """It is whole when every choice has told its finish reason and the body ended cleanly."""
    upstream.script(stream(parts))
    answer = client.post(COMPLETIONS, json={"stream": True}, headers=OWN)
    assert answer.data.startswith(b"".join(parts))
    assert (b"event: error" not in answer.data) is is_whole


def test_a_stalled_stream_ends_at_the_deadline(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """As one error event."""
    upstream.script(stream([chunk("half")], pause=30))
    answer = make_app(request_timeout=0.6).test_client().post(COMPLETIONS, json={"stream": True}, headers=OWN)
    assert b'"code":"upstream_timeout"' in answer.data


def test_an_upstream_that_never_closes_a_finished_stream(client: FlaskClient, upstream: Upstream) -> None:
    """The end mark is the end; we do not wait for the deadline behind it, and report no error."""
    upstream.script(stream([*completion_events("x"), b""], pause=0.0, close=False))
    answer = client.post(COMPLETIONS, json={"stream": True}, headers=OWN)
    assert answer.data.count(b"event: error") == 0


def test_a_passed_request_takes_a_slot_and_waits_for_it(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """A request of `/v1` is a request like any other."""
    app = make_app(max_concurrent_requests=1, max_queue_seconds=0)
    upstream.default = delayed(0.1, reply(200, {"id": "x"}))
    with app.app_context():
        from app.calls.call import Call

        held = Call(5)
        service(Slots, app).acquire(held)
    answer = app.test_client().post(RESPONSES, json={}, headers=OWN)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "server_busy")
    assert answer.headers["Retry-After"] == "1"
    service(Slots, app).release()
    assert app.test_client().post(RESPONSES, json={}, headers=OWN).status_code == 200


def test_a_refusal_tells_what_upstream_told(client: FlaskClient, upstream: Upstream) -> None:
    """The field it names, its request id and its rate limits; on the native route in that route's words."""
    headers = {"X-Request-Id": "req_up", "X-RateLimit-Remaining-Tokens": "7", "X-Other": "no"}
    upstream.default = reply(400, error_document("x", param="tools[0].name"), headers)
    answer = client.post(RESPONSES, json={}, headers=OWN)
    assert answer.get_json()["error"]["param"] == "tools[0].name"
    assert answer.headers["X-Upstream-Request-ID"] == "req_up"
    assert answer.headers["X-Request-ID"] not in {"", "req_up"}
    assert answer.headers["X-RateLimit-Remaining-Tokens"] == "7"
    assert "X-Other" not in answer.headers
    native = {"user_message": "hi", "free_mode": True}
    assert "param" not in client.post("/api/v1/chat", json=native).get_json()
    upstream.default = reply(400, error_document("x", param="max_output_tokens"))
    assert client.post(RESPONSES, json={}, headers=OWN).get_json()["error"]["param"] == "max_output_tokens"
    assert client.post("/api/v1/chat", json=native).get_json()["param"] == "max_tokens"


def test_our_own_refusal_names_the_field(client: FlaskClient) -> None:
    """As OpenAI's errors do."""
    assert client.post(RESPONSES, json={"stream": 1}, headers=OWN).get_json()["error"]["param"] == "stream"
    answer = client.post(RESPONSES, json={}, headers=OWN | {"X-Free-Mode": "perhaps"})
    assert answer.get_json()["error"]["param"] == "X-Free-Mode"


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("meta-llama%2FLlama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("models/gemini-2.0-flash", "models/gemini-2.0-flash"),
        ("qwen2.5%3A7b", "qwen2.5:7b"),
        ("ft:gpt-4o-mini:org::id", "ft:gpt-4o-mini:org::id"),
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_a_model_whose_name_has_slashes(
    client: FlaskClient, upstream: Upstream, asked: str, name: str, bare: bool
) -> None:
    """It is found in the list where upstream describes no single one; a list without its object is one, too."""
    models = [{"id": "other"}, {"id": name}]
    listed = json.dumps(models if bare else {"object": "list", "data": models}).encode()
    upstream.script(reply(404, b"{}"), reply(200, listed))
    answer = client.get(f"/v1/models/{asked}", headers=OWN)
    assert (answer.status_code, answer.get_json()) == (200, {"id": name})
    assert upstream.received[0].path == "/v1/models/" + quote(name, safe="")


@pytest.mark.parametrize("data", [7, True, "gpt-4o", {"id": "gpt-4o"}, [7, None]])
def test_a_list_of_models_that_is_none(client: FlaskClient, upstream: Upstream, data: Any) -> None:
    """A model that is not in it is not known; that is no fault of this server."""
    upstream.script(reply(404), reply(200, {"object": "list", "data": data}))
    answer = client.get("/v1/models/gpt-4o", headers=OWN)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("status", [[], {"code": 0}])
def test_a_status_of_any_type_passes(client: FlaskClient, upstream: Upstream, status: Any) -> None:
    """Members that mean nothing to us pass as they came, plain and streamed."""
    document = {"object": "chat.completion", "status": status, "choices": []}
    upstream.script(reply(200, document), stream([event(document), event("[DONE]")]))
    assert client.post(COMPLETIONS, json={}, headers=OWN).get_json() == document
    streamed = client.post(COMPLETIONS, json={"stream": True}, headers=OWN)
    assert streamed.data.startswith(event(document) + event("[DONE]"))


def test_a_bare_list_of_models(client: FlaskClient, upstream: Upstream) -> None:
    """Clients read `data`, whose numbers stay as they are, beyond 64 bits too."""
    upstream.script(reply(200, b'[{"id": "a", "n": 18446744073709551616}]'))
    listing = client.get("/v1/models", headers=OWN).data
    assert listing == b'{"object":"list","data":[{"id":"a","n":18446744073709551616}]}'


@pytest.mark.parametrize("name", ["..", ".", "%2e%2e", "a/../b", "..%2fembeddings", "a/..", "./a"])
def test_a_model_that_is_a_way_up(client: FlaskClient, upstream: Upstream, name: str) -> None:
    """It never reaches upstream."""
    answer = client.get(f"/v1/models/{name}", headers=OWN)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "model_not_found")
    assert upstream.received == []


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("?api-version=2024-10-21", "?api-version=2024-10-21"),
        ("?beta=true&x=a%2Fb+c", "?beta=true&x=a%2Fb+c"),
        ("?", ""),
        ("", ""),
    ],
)
def test_queries_pass(client: FlaskClient, upstream: Upstream, query: str, sent: str) -> None:
    """As they came."""
    client.post(COMPLETIONS + query, json={}, headers=OWN)
    client.get("/v1/models" + query, headers=OWN)
    assert [received.path for received in upstream.received] == [COMPLETIONS + sent, "/v1/models" + sent]


CALLERS = {
    "OpenAI-Organization": "org-callers",
    "OpenAI-Project": "proj_callers",
    "OpenAI-Beta": "assistants=v2, x",
    "Idempotency-Key": "once-1",
}


@pytest.mark.parametrize("path", [RESPONSES, COMPLETIONS, EMBEDDINGS, "/v1/models"])
def test_headers_of_the_callers_account_pass_with_its_own_key_only(
    make_app: Callable[..., Flask], upstream: Upstream, path: str
) -> None:
    """A key in several organizations would be billed to the wrong one; with the server's key they are nobody's."""
    app = make_app(openai_org_id="org-ours")
    refused, echoed = reply(401), reply(200, {"data": []})
    upstream.script(echoed, echoed, refused, echoed)
    for headers in (OWN, FREE, OWN | FREE):
        app.test_client().open(path, method="GET" if "models" in path else "POST", json={}, headers=headers | CALLERS)
    own, free, _, fallback = [received.headers for received in upstream.received]
    assert {name: own[name.lower()] for name in CALLERS} == CALLERS
    for headers in (free, fallback):
        assert "callers" not in str(headers)
        assert not {"openai-beta", "idempotency-key"} & headers.keys()
        assert headers["openai-organization"] == "org-ours"


@pytest.mark.parametrize("value", ["org-\xe9", "x" * 257], ids=["not ASCII", "long"])
@pytest.mark.parametrize("name", CALLERS)
def test_a_header_that_cannot_pass(client: FlaskClient, upstream: Upstream, name: str, value: str) -> None:
    """It is refused by name, not dropped: another organization would be billed."""
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value}
    answer = client.post(RESPONSES, json={}, headers=OWN, environ_overrides=environ)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (422, name)
    assert upstream.received == []


def test_a_key_that_cannot_be_one_is_named_as_it_came(client: FlaskClient) -> None:
    """Not by a field that the request does not have."""
    answer = client.post(RESPONSES, json={}, headers={"Authorization": "Bearer a key"})
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (422, "Authorization")


CHAT = "/api/v1/chat"
PATIENT = {"request_timeout": 0.6, "stream_idle_seconds": 0.6, "stream_max_seconds": 30}


def streamed(client: FlaskClient, path: str) -> bytes:
    """A streamed answer of any route."""
    asked = {"user_message": "hi", "free_mode": True} if path == CHAT else {}
    return client.post(path, json=asked | {"stream": True}, headers={} if path == CHAT else OWN).data


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_stream_that_makes_progress_is_not_cut(
    make_app: Callable[..., Flask], upstream: Upstream, path: str, database_url: str
) -> None:
    """It may last longer than REQUEST_TIMEOUT, and so may its lease."""
    upstream.script(stream(response_events(*"abcdefgh"), pause=0.15))
    body = streamed(make_app(**PATIENT).test_client(), path)
    assert b"event: error" not in body
    assert b"response.completed" in body or b"event: done" in body
    (row,) = settled(database_url)
    assert (row["status"], row["lease_until"] - row["created_at"] > 30_000_000) == ("ok", True)


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("limit", [{"stream_idle_seconds": 0.3}, {"stream_max_seconds": 0.6}])
def test_a_stream_ends_when_it_is_silent_or_lasts_too_long(
    make_app: Callable[..., Flask], upstream: Upstream, path: str, limit: dict[str, float]
) -> None:
    """With one error. A comment is progress, and silence is none."""
    is_silent = "stream_idle_seconds" in limit
    upstream.script(stream([delta("a"), *[b": alive\n\n"] * 60], pause=3 if is_silent else 0.1))
    body = streamed(make_app(**PATIENT | limit).test_client(), path)
    assert b"upstream_timeout" in body
    assert body.count(b"event: error") == 1


def test_a_plain_request_ends_at_its_timeout(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Also one whose body drips."""
    upstream.script(pieces([b"HTTP/1.1 200 OK\r\n\r\n", *[b" "] * 60], pause=0.1))
    answer = make_app(**PATIENT).test_client().post(COMPLETIONS, json={}, headers=OWN)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (504, "upstream_timeout")
