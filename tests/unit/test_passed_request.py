"""What is read of a body that passes through, and what is refused because another parser may read it differently."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import ValidationException
from app.services.passed_request import read_request
from app.tokens import FILE_TOKENS, estimate_tokens, image_tokens

CHAT, RESPONSES = "/chat/completions", "/responses"
MESSAGES, COUNT = "/messages", "/messages/count_tokens"


def read(path: str = CHAT, **members: Any) -> Any:
    return read_request(path, json.dumps({"model": "gpt-4o"} | members).encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "dear", "model": "allowed"}',
        b'{"model": "allowed", "Model": "dear"}',
        b'{"model": "allowed", "MODEL": "dear"}',
        b'{"model": "a", "\\u006dodel": "b"}',
        b'{"max_tokens": 1, "MAX_TOKENS": 100000}',
        b'{"stream": true, "Stream": false}',
        b'{"n": 1, "N": 128}',
        b'{"x": 1, "x": 2}',
    ],
)
def test_a_member_is_there_once_and_spelled_as_it_is(body: bytes) -> None:
    """Parsers differ in which of two values they take, and whether they mind upper case."""
    with pytest.raises(ValidationException):
        read_request(CHAT, body)


def test_other_names_may_be_anything() -> None:
    """Only the outermost object is looked at, and only names on which something is decided."""
    body = b'{"model": "a", "Metadata": 1, "tools": [{"type": "function", "Model": 1, "a": 1, "a": 2}]}'
    assert read_request(CHAT, body).ask.model == "a"


@pytest.mark.parametrize(
    ("path", "members", "uncovered"),
    [
        (RESPONSES, {"background": True}, "background"),
        (RESPONSES, {"background": False}, None),
        (CHAT, {"service_tier": "priority"}, "service_tier"),
        (CHAT, {"service_tier": "flex"}, "service_tier"),
        (CHAT, {"service_tier": ["flex"]}, "service_tier"),
        (CHAT, {"service_tier": "auto"}, None),
        (CHAT, {"service_tier": None}, None),
        (RESPONSES, {"tools": [{"type": "function"}, {"type": "web_search"}]}, "tools[1]"),
        (RESPONSES, {"tools": [{"type": "image_generation"}]}, "tools[0]"),
        (RESPONSES, {"tools": [7]}, "tools[0]"),
        (CHAT, {"tools": [{"type": "function"}, {"type": "custom"}]}, None),
        (CHAT, {"web_search_options": {}}, "web_search_options"),
        (CHAT, {"models": ["gpt-4o", "o1-pro"]}, "models"),
        (CHAT, {"fallbacks": ["o1-pro"]}, "fallbacks"),
        (CHAT, {"route": "fallback"}, "route"),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
        (CHAT, {"max_tokens": 100000.0}, "max_tokens"),
        (CHAT, {"max_tokens": "9"}, "max_tokens"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"n": 2.0}, "n"),
        (CHAT, {"n": 2}, None),
        (CHAT, {"container": "c", "speed": "fast"}, None),
        (MESSAGES, {"max_tokens": 9, "thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, None),
        (MESSAGES, {"service_tier": "standard_only"}, None),
        (MESSAGES, {"service_tier": "priority"}, "service_tier"),
        (MESSAGES, {"max_tokens": 9.0}, "max_tokens"),
        (MESSAGES, {"tools": [{"name": "a"}, {"type": "custom"}, {"type": "bash_20250124"}]}, None),
        (MESSAGES, {"tools": [{"type": "text_editor_20250728"}, {"type": "memory_20250818"}]}, None),
        (MESSAGES, {"tools": [{"type": "computer_20250124"}, {"type": "web_search_20250305"}]}, "tools[1]"),
        (MESSAGES, {"tools": [{"type": "code_execution_20250825"}]}, "tools[0]"),
        (MESSAGES, {"tools": [{"type": "web_fetch_20250910"}]}, "tools[0]"),
        (MESSAGES, {"tools": [{"type": 7}]}, "tools[0]"),
        (MESSAGES, {"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        (MESSAGES, {"mcp_servers": []}, None),
        (MESSAGES, {"container": "c"}, "container"),
        (MESSAGES, {"speed": "fast"}, "speed"),
        (MESSAGES, {"speed": "standard"}, None),
        (MESSAGES, {"inference_geo": "us"}, "inference_geo"),
        (MESSAGES, {"inference_geo": ["us"]}, "inference_geo"),
        (MESSAGES, {"fallbacks": [{"model": "claude-opus-4-6"}]}, "fallbacks"),
        (MESSAGES, {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, None),
        (MESSAGES, {"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management"),
        (MESSAGES, {"context_management": {"edits": "x"}}, "context_management"),
        (MESSAGES, {"context_management": None}, None),
        (COUNT, {"tools": [{"type": "web_search_20250305"}], "speed": "fast"}, None),
        (COUNT, {"fallbacks": ["a"]}, "fallbacks"),
    ],
)
def test_what_no_limit_can_cover(path: str, members: dict[str, Any], uncovered: str | None) -> None:
    """A client with a budget or a model list is told so by the name of the member."""
    assert read(path, **members).ask.uncovered == uncovered


PICTURE = "data:image/png;base64," + "A" * 400_000


@pytest.mark.parametrize(
    ("part", "figure"),
    [
        ({"type": "image_url", "image_url": {"url": PICTURE}}, image_tokens("gpt-4o")),
        ({"type": "input_image", "image_url": PICTURE}, image_tokens("gpt-4o")),
        ({"type": "input_image", "file_id": "file_1"}, image_tokens("gpt-4o")),
        ({"type": "input_audio", "input_audio": {"data": "A" * 400_000, "format": "wav"}}, 3000),
        ({"type": "input_file", "file_id": "file_1"}, FILE_TOKENS),
        ({"type": "file", "file": {"file_data": "A" * 400_000}}, FILE_TOKENS),
        ({"odd": PICTURE}, image_tokens("gpt-4o")),
    ],
)
def test_media_cost_a_figure_each_and_never_their_base64(part: dict[str, Any], figure: int) -> None:
    """Text beside them counts as text, twice as many pictures twice as much."""
    alone = read(messages=[{"role": "user", "content": [part]}]).ask.prompt_tokens
    assert figure <= alone < figure + 100
    text = {"type": "text", "text": "x" * 4000}
    more = read(messages=[{"role": "user", "content": [part, part, text]}]).ask.prompt_tokens
    assert 2 * figure + 1000 <= more < 2 * figure + 1200


@pytest.mark.parametrize(
    ("model", "figure"), [("gpt-4o", 2_500), ("gpt-4o-mini", 48_169), ("gpt-4o-mini-2024-07-18", 48_169), ("", 2_500)]
)
def test_a_picture_costs_what_its_model_takes(model: str, figure: int) -> None:
    """docs/api names the figures."""
    part = {"type": "image_url", "image_url": {"url": PICTURE}}
    tokens = read(model=model, messages=[{"role": "user", "content": [part]}]).ask.prompt_tokens
    assert figure <= tokens < figure + 100


def test_text_schema_and_tools_count_as_text() -> None:
    """Everything in the body, so that nothing which upstream reads is free."""
    body = json.dumps(
        {"model": "m", "tools": [{"type": "function", "parameters": {"x": "가" * 500}}]}, ensure_ascii=False
    )
    assert read_request(CHAT, body.encode()).ask.prompt_tokens == estimate_tokens(body) > 500


def test_a_changed_body_means_the_same() -> None:
    """But for the members that are set anew."""
    request = read(messages=[{"role": "user", "content": "가\u2028"}], temperature=0.1, seed=2**60)
    assert json.loads(request.changed(max_completion_tokens=7)) == dict(request.document) | {"max_completion_tokens": 7}


def message(*parts: dict[str, Any], **members: Any) -> Any:
    return read(MESSAGES, messages=[{"role": "user", "content": list(parts)}], **members).ask


BASE64 = {"type": "base64", "media_type": "image/png", "data": "A" * 400_000}
SHORT = 40


@pytest.mark.parametrize(
    ("part", "most"),
    [
        ({"type": "text", "text": "x" * 4000}, 1000),
        ({"type": "image", "source": BASE64}, image_tokens("gpt-4o")),
        ({"type": "image", "source": {"type": "url", "url": "https://x"}}, image_tokens("gpt-4o")),
        ({"type": "document", "source": BASE64}, FILE_TOKENS),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, FILE_TOKENS),
        ({"type": "document", "source": {"type": "text", "data": "x" * 4000}}, 1000),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": BASE64}]}},
            image_tokens("gpt-4o"),
        ),
        ({"type": "tool_result", "content": [{"type": "image", "source": BASE64}]}, image_tokens("gpt-4o")),
    ],
)
def test_each_part_of_a_message_is_counted(part: dict[str, Any], most: int) -> None:
    """Pictures and documents by a figure each, wherever they stand; documents that are text, as text."""
    assert most <= message(part).prompt_tokens <= most + SHORT


def test_a_picture_for_a_claude_costs_more() -> None:
    """Its newest models look closer."""
    part = {"type": "image", "source": BASE64}
    assert message(part, model="claude-opus-4-6").prompt_tokens > image_tokens("claude-opus-4-6") == 4_800


def test_tools_of_messages_count() -> None:
    """The instructions that Anthropic adds for them count, too, for tools that it describes itself the most."""
    plain = message().prompt_tokens
    own = message(tools=[{"name": "a", "input_schema": {}}]).prompt_tokens
    typed = message(tools=[{"type": "bash_20250124", "name": "bash"}]).prompt_tokens
    assert (own - plain >= 600, typed - plain >= 2600) == (True, True)


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"messages": []}', ""),
        (b'{"cache_control": {"type": "ephemeral"}}', "5m"),
        (b'{"cache_\\u0063ontrol": {"ttl": "\\u0031h"}}', "1h"),
        (b'{"messages": [{"content": [{"cache_control": {"ttl": "5m"}}, {"cache_control": {"ttl": "1h"}}]}]}', "1h"),
        (b'{"cache_control": null, "system": "\\ud55c"}', ""),
    ],
)
def test_whether_a_prompt_may_be_cached(body: bytes, kept: str) -> None:
    """Writing it to a cache costs more than reading it, whoever spells the name with escapes."""
    assert read_request(MESSAGES, body).ask.cache_write == kept
    assert read_request(COUNT, body).ask.cache_write == ""


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_body_that_is_nested_too_deeply(path: str) -> None:
    """Is refused like one that cannot be parsed."""
    body = b'{"data": ";base64,", "messages": ' + b"[" * 900 + b"]" * 900 + b"}"
    with pytest.raises(ValidationException) as raised:
        read_request(path, body)
    assert raised.value.error_code == "invalid_json"


def test_a_count_is_never_streamed() -> None:
    """Whatever its caller says: the API answers it whole."""
    assert message(stream=True).streamed
    assert not read(COUNT, stream=True).ask.streamed


def test_names_that_decide_on_messages() -> None:
    """Only there: another API may have members of these names."""
    assert read_request(CHAT, b'{"Speed": 1}').ask
    with pytest.raises(ValidationException):
        read_request(MESSAGES, b'{"Speed": "fast"}')
