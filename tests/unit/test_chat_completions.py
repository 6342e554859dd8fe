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
