"""Routes without a dialect: completions, sound, pictures, rankings and moderation pass as they come, both ways."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.errors import OpenAIClientException
from app.ledger.accounts import Accounts, Limits
from app.web import forms
from app.web.services import service
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.records import rows, settled
from tests.streams import event, stream
from tests.upstream import Upstream, error_document, pieces, reply

COMPLETIONS, SPEECH, TRANSCRIPTIONS = "/v1/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
IMAGES, MODERATIONS, RERANK = "/v1/images/generations", "/v1/moderations", "/v1/rerank"
JSON_ROUTES = [COMPLETIONS, SPEECH, IMAGES, MODERATIONS, RERANK]
OWN = {"Authorization": f"Bearer {CALLER_KEY}"}
INSTRUCT = "gpt-3.5-turbo-instruct"


@pytest.mark.parametrize("path", JSON_ROUTES)
def test_bodies_pass_as_they_come(client: FlaskClient, upstream: Upstream, path: str) -> None:
    """To the byte, with the query; the answer as well."""
    sent = b'{ "model":"m",  "input":"\xed\x95\x9c", "x": [1.0, 1e3] }'
    answered = b'{"id": "x",  "results": [ ]}\n'
    upstream.script(reply(200, answered))
    answer = client.post(f"{path}?a=1", data=sent, content_type="application/json", headers=OWN)
    assert (answer.status_code, answer.data, answer.mimetype) == (200, answered, "application/json")
    assert (upstream.received[0].body, upstream.received[0].path) == (sent, f"{path}?a=1")
    assert upstream.received[0].key == CALLER_KEY
    assert answer.headers["Server-Timing"].startswith("queue;dur=")
    upstream.script(reply(404, error_document("nothing_here")))
    refused = client.post(path, json={"model": "m"}, headers=OWN)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (404, "nothing_here")


SOUND = bytes(range(256)) * 40
KINDS = {
    "audio/mpeg": (SPEECH, SOUND),
    "text/plain; charset=utf-8": (TRANSCRIPTIONS, "안녕\n".encode()),
    "text/event-stream": (IMAGES, event({"type": "image_generation.partial_image", "b64_json": "AAAA"})),
    "application/x-subrip": (TRANSCRIPTIONS, b"1\n00:00:00,000 --> 00:00:01,000\nhi\n"),
}


def form(path: str = TRANSCRIPTIONS, **fields: Any) -> dict[str, Any]:
    """What a request to the route needs: a form for transcriptions, JSON for the others."""
    if path != TRANSCRIPTIONS:
        return {"json": {"model": "m"} | fields}
    given = {"model": "m", "file": (io.BytesIO(SOUND), "speech.mp3")} | fields
    return {"data": given, "content_type": "multipart/form-data"}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_any_kind_pass(client: FlaskClient, upstream: Upstream, database_url: str, kind: str) -> None:
    """With their media type; what they cost is not known."""
    path, body = KINDS[kind]
    upstream.script(reply(200, body, {"Content-Type": kind}))
    answer = client.post(path, headers=OWN, **form(path))
    assert (answer.status_code, answer.data, answer.headers["Content-Type"]) == (200, body, kind)
    assert "X-Cost-USD" not in answer.headers
    assert [(row["status"], row["cost_nano"], row["route"]) for row in settled(database_url)] == [("ok", None, path)]


def test_a_strange_media_type(client: FlaskClient, upstream: Upstream) -> None:
    """Is not repeated."""
    upstream.script(reply(200, b"x", {"Content-Type": "what<is>this"}))
    answer = client.post(SPEECH, json={"model": "m"}, headers=OWN)
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_sound_passes_while_it_comes(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """The first piece is there before the last one was made, and one that breaks off has no end."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: 9\r\n\r\n"
    upstream.script(pieces([head + b"abc", b"def", b"ghi"], pause=0.3), pieces([head + b"abc"]))
    with client.post(SPEECH, json={"model": "m"}, headers=OWN, buffered=False) as answer:
        body = answer.iter_encoded()
        first = next(iter(body))
        early = [row["status"] for row in rows(database_url)]
        assert (first, b"".join(body)) == (b"abc", b"defghi")
        assert early == ["pending"]
    cut = client.post(SPEECH, json={"model": "m"}, headers=OWN, buffered=False)
    with cut, pytest.raises(OpenAIClientException):
        list(cut.iter_encoded())
    assert [row["code"] for row in settled(database_url)] == [None, "upstream_connection_error"]


def test_a_form_passes_to_the_byte(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Its boundary, its parts and their order; the model is in the ledger."""
    sent = (
        b'--b o\r\nContent-Disposition: form-data; name="file"; filename="\xed\x95\x9c.mp3"\r\n'
        b"Content-Type: audio/mpeg\r\n\r\n" + SOUND + b"\r\n"
        b'--b o\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b o--\r\n'
    )
    kind = 'multipart/form-data; boundary="b o"'
    upstream.script(reply(200, {"text": "hi", "usage": {"type": "duration", "seconds": 3}}))
    answer = client.post(TRANSCRIPTIONS, data=sent, content_type=kind, headers=OWN)
    assert answer.get_json()["text"] == "hi"
    (received,) = upstream.received
    assert (received.body, received.headers["content-type"]) == (sent, kind)
    (row,) = settled(database_url)
    assert (row["model"], row["cost_nano"], row["status"]) == ("whisper-1", None, "ok")


FILE = """
[upstreams.a]
base_url = "{a}"
dialects = "responses"
[upstreams.b]
base_url = "{b}"
dialects = "responses"
[models.ears]
targets = [{{upstream = "a", model = "whisper-1"}}]
on_failure = [{{upstream = "b", model = "속기사/large"}}]
[models.whisper-1]
targets = [{{upstream = "b"}}]
"""


@pytest.fixture
def over_two(
    make_app: Callable[..., Flask], upstream: Upstream, tmp_path: Path
) -> Iterator[tuple[FlaskClient, Upstream]]:
    """A client of an app with two upstreams, and the second of them."""
    with Upstream() as second:
        second.default = reply(200, {"text": "from b"})
        file = tmp_path / "upstreams.toml"
        file.write_text(FILE.format(a=upstream.base_url, b=second.base_url))
        yield make_app(upstreams_file=str(file)).test_client(), second


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b"\r"])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("piece", [1, 7, forms.PIECE])
def test_a_form_names_the_model_as_its_upstream_does(
    over_two: tuple[FlaskClient, Upstream],
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    line: bytes,
    is_first: bool,
    piece: int,
) -> None:
    """Wherever the field stands and however lines are broken; everything else is as it came, to the byte."""
    monkeypatch.setattr(forms, "PIECE", piece)
    client, second = over_two
    upstream.script(reply(500, error_document()))

    def body(model: str) -> bytes:
        head = b'Content-Disposition: form-data; name="'
        parts = [
            head + b'model"' + line + line + model.encode(),
            head + b'file"; filename="a"' + line + line + b"model ears " + SOUND[:600] + b"\r\n--b",
        ]
        parts = parts if is_first else parts[::-1]
        return b"".join(b"--bound" + line + part + line for part in parts) + b"--bound--" + line

    kind, free = "multipart/form-data; boundary=bound", {"X-Free-Mode": "true"}
    sent = {model: body(model) for model in (" ears ", "whisper-1", "속기사/large")}
    answer = client.post(TRANSCRIPTIONS, data=sent[" ears "], content_type=kind, headers=free)
    assert answer.get_json() == {"text": "from b"}
    assert ([one.body for one in upstream.received], second.received[0].body) == (
        [sent["whisper-1"]],
        sent["속기사/large"],
    )
    client.post(TRANSCRIPTIONS, data=sent["whisper-1"], content_type=kind, headers=free)
    assert second.received[1].body == sent["whisper-1"]


@pytest.mark.parametrize(("length", "status"), [(1, 200), (70, 200), (73, 200), (200, 200), (201, 415)])
def test_how_long_a_boundary_may_be(client: FlaskClient, upstream: Upstream, length: int, status: int) -> None:
    """Longer than the standard's 70 characters, as some clients write it by chance."""
    upstream.default = reply(200, {"text": "x"})
    boundary = "b" * length
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--{boundary}--\r\n'
    kind = f"multipart/form-data; boundary={boundary}"
    assert client.post(TRANSCRIPTIONS, data=body.encode(), content_type=kind, headers=OWN).status_code == status


def part(name: str, value: str = "allowed", *, more: str = "", disposition: str = "") -> str:
    told = disposition or f'form-data; name="{name}"'
    return f"--b\r\nContent-Disposition: {told}\r\n{more}\r\n{value}\r\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (part("model") + part("model", "dear") + "--b--", 422),
        (part("model") + part("Model", "dear") + "--b--", 422),
        (part("model") + part(" model", "dear") + "--b--", 422),
        (part("model", more="Content-Transfer-Encoding: base64\r\n") + "--b--", 422),
        (part("", disposition='form-data; name="model"; filename="x"') + "--b--", 422),
        (part("", disposition='form-data; name="x"; name="model"') + "--b--", 422),
        (part("", disposition='form-data; name="mo\\del"') + "--b--", 422),
        (part("", disposition="form-data; name=model") + "--b--", 422),
        (part("", disposition='form-data; name="x"', more='Content-Disposition: form-data; name="model"\r\n'), 422),
        (part("stream", "true") + part("stream", "false") + "--b--", 422),
        (part("model"), 400),
        ("no form", 400),
        (part("", disposition='form-data; name="file"; filename="a\\"; name="model"') + "--b--", 422),
        (part("", disposition='form-data; name="file"; filename="a"; name="model"') + "--b--", 422),
        (part("", disposition='form-data; name="file"; filename="a"; filename*=x; name="model"') + "--b--", 422),
        (part("model") + part("temperature", "0") + "--b--", 200),
        (part("model") + part("", disposition='form-data; name="file"; filename="C:\\a;b.mp3"') + "--b--", 200),
        (part("model") + part("", disposition="form-data; name=\"file\"; filename*=UTF-8''x") + "--b--", 200),
    ],
)
def test_a_form_that_could_be_read_in_two_ways(client: FlaskClient, upstream: Upstream, body: str, status: int) -> None:
    """Another parser must not read another model than we do."""
    upstream.default = reply(200, {"text": "hi"})
    kind = "multipart/form-data; boundary=b"
    answer = client.post(TRANSCRIPTIONS, data=body.encode(), content_type=kind, headers=OWN)
    assert answer.status_code == status
    assert len(upstream.received) == (status == 200)


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data", "multipart/form-data; boundary=\u00e9", "text/plain", ""]
)
def test_what_is_no_form(client: FlaskClient, kind: str) -> None:
    """Is refused for its media type."""
    assert client.post(TRANSCRIPTIONS, data=b"{}", content_type=kind, headers=OWN).status_code == 415


def test_more_than_json_may_hold(client: FlaskClient, upstream: Upstream) -> None:
    """Sound has no values that could be too many."""
    upstream.default = reply(200, {"text": "hi"})
    sent = f'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n{",:" * 600_000}\r\n--b--'
    kind = "multipart/form-data; boundary=b"
    answer = client.post(TRANSCRIPTIONS, data=sent.encode(), content_type=kind, headers=OWN)
    assert answer.status_code == 200


CHUNKS = [
    event({"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "Par", "finish_reason": None}]}),
    event({"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "is", "finish_reason": "stop"}]}),
]
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
COUNTED = event({"id": "c", "model": INSTRUCT, "choices": [], "usage": USAGE})


def test_a_completion_is_streamed(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Its chunks pass, its usage is asked for where the server's key pays, and one that is cut is told."""
    upstream.script(stream([*CHUNKS, COUNTED, event("[DONE]")]), stream([*CHUNKS, event("[DONE]")]), stream(CHUNKS[:1]))
    asked = {"model": INSTRUCT, "prompt": "Capital?", "stream": True}
    free = client.post(COMPLETIONS, json=asked, headers={"X-Free-Mode": "true"})
    assert free.data.startswith(b"".join([*CHUNKS, event("[DONE]")]) + b": server-timing")
    assert upstream.received[0].json == asked | {"stream_options": {"include_usage": True}}
    assert client.post(COMPLETIONS, json=asked, headers=OWN).data
    assert upstream.received[1].json == asked
    assert b'"code":"upstream_connection_error"' in client.post(COMPLETIONS, json=asked, headers=OWN).data
    counted, estimated, cut = settled(database_url)
    assert (counted["output_tokens"], counted["estimated"], counted["cost_nano"]) == (2, False, 5 * 1500 + 2 * 2000)
    assert (estimated["output_tokens"], estimated["estimated"]) == (2, True)
    assert (cut["output_tokens"], cut["code"]) == (1, "upstream_connection_error")
    assert counted["first_token_ms"] is not None


PICTURE_USAGE = {"input_tokens": 10, "output_tokens": 100, "input_tokens_details": {"text_tokens": 10}}
SPOKEN = {"input_tokens": 100, "output_tokens": 10, "input_token_details": {"audio_tokens": 100}}


@pytest.mark.parametrize(
    ("path", "model", "usage", "cost"),
    [
        (IMAGES, "gpt-image-1", PICTURE_USAGE, 10 * 5_000 + 100 * 40_000),
        (IMAGES, "gpt-image-1", PICTURE_USAGE | {"input_tokens_details": {"image_tokens": 4}}, None),
        (IMAGES, "dall-e-3", None, None),
        (TRANSCRIPTIONS, "gpt-4o-transcribe", SPOKEN, 100 * 6_000 + 10 * 10_000),
        (TRANSCRIPTIONS, "whisper-1", {"type": "duration", "seconds": 3}, None),
        (RERANK, "rerank-of-somebody", {"total_tokens": 7}, None),
        (MODERATIONS, "omni-moderation-latest", None, 0),
    ],
)
def test_the_cost_is_that_of_the_list_or_unknown(
    client: FlaskClient, upstream: Upstream, database_url: str, path: str, model: str, usage: Any, cost: int | None
) -> None:
    """Never 0 for what goes by seconds, pictures or searches."""
    upstream.script(reply(200, {"id": "x", "data": []} | ({"usage": usage} if usage else {})))
    assert client.post(path, headers=OWN, **form(path, model=model)).status_code == 200
    assert [row["cost_nano"] for row in settled(database_url)] == [cost]


def test_usage_at_the_end_of_pictures_that_are_streamed(
    client: FlaskClient, upstream: Upstream, database_url: str
) -> None:
    """Is found, although no event is held."""
    done = event({"type": "image_generation.completed", "b64_json": "A" * 100_000, "usage": PICTURE_USAGE})
    upstream.script(stream([done]))
    answer = client.post(IMAGES, json={"model": "gpt-image-1", "stream": True}, headers=OWN)
    assert (answer.data, answer.mimetype) == (done, "text/event-stream")
    assert [row["cost_nano"] for row in settled(database_url)] == [10 * 5_000 + 100 * 40_000]


def test_what_was_not_answered_costs_nothing(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """A refusal has a known cost."""
    upstream.script(reply(400, error_document("bad_voice")))
    client.post(SPEECH, json={"model": "m"}, headers=OWN)
    assert [row["cost_nano"] for row in settled(database_url)] == [0]


Post = Callable[..., TestResponse]


@pytest.fixture
def post(make_app: Callable[..., Flask]) -> Post:
    """Send a request of a client with these limits, for which the server's key pays."""
    app = make_app(auth_mode="token")

    def send(path: str, limits: Limits, **fields: Any) -> TestResponse:
        token = service(Accounts, app).add(f"client-{len(fields)}", limits)
        return app.test_client().post(path, headers={"Authorization": f"Bearer {token}"}, **form(path, **fields))

    return send


BUDGET = Limits(budget_nano=10**9, budget_period="day")


@pytest.mark.parametrize("path", [SPEECH, TRANSCRIPTIONS, IMAGES, RERANK])
def test_a_budget_covers_no_route_whose_cost_is_not_known_before(post: Post, upstream: Upstream, path: str) -> None:
    """It is refused with a budget, and not with a list of models, in which the model has to be."""
    upstream.default = reply(200, {"text": "hi"})
    refused = post(path, BUDGET).get_json()["error"]
    assert (refused["code"], refused["param"]) == ("not_covered", None)
    assert upstream.received == []
    assert post(path, Limits(models="gpt-*"), n=1).get_json()["error"]["code"] == "model_not_allowed"
    assert post(path, Limits(models="gpt-*"), model="gpt-x", size=1).status_code == 200
    assert [received.key for received in upstream.received] == [SERVER_KEY]


@pytest.mark.parametrize(
    ("fields", "prompt", "output"),
    [
        ({"prompt": "x" * 400, "max_tokens": 10}, (100, 130), 10),
        ({"prompt": ["x" * 400, "y"], "max_tokens": 10, "n": 2, "best_of": 3}, (100, 140), 60),
        ({"prompt": [1, 2] * 500, "max_tokens": 10}, (1000, 1100), 10),
        ({"prompt": [[1, 2] * 250, [3] * 500], "max_tokens": 10}, (1000, 1100), 20),
    ],
)
def test_a_budget_covers_completions(
    post: Post, upstream: Upstream, database_url: str, fields: Any, prompt: tuple[int, int], output: int
) -> None:
    """Every prompt of a list has as many answers; a prompt of numbers has as many tokens as numbers."""
    upstream.script(reply(200, {"model": INSTRUCT, "choices": [], "usage": USAGE}))
    assert post(COMPLETIONS, BUDGET, model=INSTRUCT, **fields).status_code == 200
    (row,) = settled(database_url)
    sent = (row["reserved_nano"] - output * 2000) / 1500
    assert prompt[0] <= sent <= prompt[1]
    assert row["cost_nano"] == 5 * 1500 + 2 * 2000


def test_a_completion_without_a_limit_is_given_one(post: Post, upstream: Upstream) -> None:
    """As a chat completion is."""
    upstream.script(reply(200, {"model": INSTRUCT, "choices": [], "usage": USAGE}))
    post(COMPLETIONS, BUDGET, model=INSTRUCT, prompt="hi")
    assert json.loads(upstream.received[0].body)["max_tokens"] > 1


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/api/v1/chat", "/v1/messages"])
@pytest.mark.parametrize("asked", ["websocket", "WebSocket"])
def test_no_route_becomes_a_websocket(client: FlaskClient, upstream: Upstream, path: str, asked: str) -> None:
    """426 with a sentence, by which Codex goes on over HTTP; without the header it is 405 as ever."""
    answer = client.get(path, headers=OWN | {"Upgrade": asked, "Connection": "Upgrade"})
    assert answer.status_code == 426
    assert "WebSocket" in answer.text
    assert "websocket_unsupported" in answer.text
    assert client.get(path, headers=OWN).status_code == 405
    assert client.get(path, headers=OWN | {"Upgrade": "h2c"}).status_code == 405
    assert upstream.received == []
