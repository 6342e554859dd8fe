"""Chat Completions as the native route reads it: what is an answer, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import OpenAIClientException
from app.upstreams.chat_completions import CompletionReader, parse_completion, read_event


def document(**message: Any) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()


def test_a_refusal_is_an_answer() -> None:
    """With a finish reason that says so."""
    response = parse_completion(document(refusal="No."))
    assert (response.output_text, response.finish_reason, response.output_format) == ("No.", "content_filter", "text")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"[]", "upstream_bad_response"),
        (b"{}", "upstream_bad_response"),
        (b'{"choices": [{"message": []}]}', "upstream_bad_response"),
        (b'{"choices": [7]}', "upstream_bad_response"),
        (document(content=""), "upstream_bad_response"),
        (document(content=["x"]), "upstream_bad_response"),
        (b'{"error": {"code": "overloaded"}}', "upstream_failed"),
    ],
)
def test_what_is_no_answer(raw: bytes, code: str) -> None:
    """Never a 200 with an empty text."""
    with pytest.raises(OpenAIClientException) as caught:
        parse_completion(raw)
    assert caught.value.error_code == code


@pytest.mark.parametrize(("data", "code"), [(b"[]", "upstream_bad_response"), (b'{"error": {}, "x": 1}', None)])
def test_chunks_that_say_nothing(data: bytes, code: str | None) -> None:
    """A list is no chunk; an empty error is none."""
    if code is None:
        event = read_event(data)
        assert (CompletionReader().add(event), event.is_end) == ("", False)
        return
    with pytest.raises(OpenAIClientException) as caught:
        read_event(data)
    assert caught.value.error_code == code


def test_a_chunk_with_an_error() -> None:
    """It ends the stream as upstream's failure."""
    event = read_event(b'{"error": {"code": "server_error", "message": "secret"}}')
    assert event.is_end
    with pytest.raises(OpenAIClientException) as caught:
        CompletionReader().add(event)
    assert caught.value.upstream_code == "server_error"


REASONS = {
    "length": ["length", "MAX_TOKENS", "max_tokens", "model_length", "max_output_tokens"],
    "content_filter": ["content_filter", "SAFETY", "safety", "RECITATION", "PROHIBITED_CONTENT"],
    "stop": ["stop", "STOP", "eos", "tool_calls", "end_turn", "", None, 7, ["stop"]],
}
PARTS = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, 7, {"text": "b"}, {"type": "image"}]


@pytest.mark.parametrize(("meant", "said"), [(meant, said) for meant, words in REASONS.items() for said in words])
def test_finish_reasons_are_read_for_what_they_mean(meant: str, said: Any) -> None:
    """In a plain answer and in a stream, also without one where `[DONE]` came."""
    plain = json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": said}]}).encode()
    assert parse_completion(plain).finish_reason == meant
    reader = CompletionReader()
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": said}]}).encode()
    assert [reader.add(read_event(chunk)), reader.add(read_event(b"[DONE]"))] == ["x", ""]
    assert (reader.completion().finish_reason, reader.completion().output_text) == (meant, "x")


def test_content_in_parts() -> None:
    """The text parts are the answer's text; the thoughts of a model are not, and they were written all the same."""
    assert parse_completion(document(content=PARTS)).output_text == "ab"
    assert read_event(json.dumps({"choices": [{"delta": {"content": PARTS}}]}).encode()).text == "ab"


@pytest.mark.parametrize(
    ("choices", "written"),
    [
        ([{"delta": {"content": "a", "reasoning_content": "b"}}], 2),
        ([{"delta": {"reasoning": "abc"}}], 3),
        ([{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "bc"}}], 3),
        ([{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, 7, {"function": None}]}}], 3),
        ([{"delta": {"audio": {"transcript": "abcd", "data": "AAAA"}}}], 4),
        ([{"delta": {"content": None}}, 7, {"delta": []}], 0),
    ],
)
def test_everything_that_was_written(choices: list[Any], written: int) -> None:
    """Every choice, reasoning, transcripts and the arguments of tools; base64 is not text."""
    assert len(read_event(json.dumps({"choices": choices}).encode()).written) == written


def test_every_choice_tells_whether_it_is_finished() -> None:
    """A stream of two choices is whole when both are."""
    choices = [{"index": 0, "delta": {}, "finish_reason": "stop"}, {"index": 1, "delta": {}, "finish_reason": None}]
    assert read_event(json.dumps({"choices": choices}).encode()).choices == ((0, True), (1, False))
