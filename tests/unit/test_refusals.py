"""Error documents of upstream: every shape is read for what it says, and no secret is left in the words."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from app.upstreams.refusals import MESSAGE_MAX_LENGTH, Refusal, read_refusal
from tests.conftest import CALLER_KEY


def read(document: Any) -> Refusal:
    """The refusal in a JSON document."""
    return read_refusal(json.dumps(document).encode(), "application/json")


SHAPES: dict[str, tuple[Any, Refusal]] = {
    "OpenAI": (
        {"error": {"message": "m", "type": "t", "param": "p", "code": "c"}},
        Refusal("c", "t", "p", "m", frozenset({"c", "t"})),
    ),
    "Gemini": (
        [{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}],
        Refusal("INVALID_ARGUMENT", None, None, "m", frozenset({"INVALID_ARGUMENT"})),
    ),
    "OpenRouter": ({"error": {"code": 403, "message": "m"}}, Refusal("403", message="m", reasons=frozenset({"403"}))),
    "vLLM": (
        {"object": "error", "message": "m", "type": "BadRequestError", "param": None, "code": 400},
        Refusal("400", "BadRequestError", None, "m", frozenset({"400", "BadRequestError"})),
    ),
    "Anthropic": (
        {"type": "error", "error": {"type": "not_found_error", "message": "m"}},
        Refusal(None, "not_found_error", None, "m", frozenset({"not_found_error"})),
    ),
    "Ollama": ({"error": "m"}, Refusal(message="m")),
    "xAI": ({"code": "Some words", "error": "m"}, Refusal(message="m")),
    "Hugging Face": (
        {"error": "m", "error_type": "validation"},
        Refusal(None, "validation", None, "m", frozenset({"validation"})),
    ),
    "FastAPI": ({"detail": "m"}, Refusal(message="m")),
    "FastAPI's validation": (
        {
            "detail": [{"loc": ["body", "messages", 0, "role"], "msg": "m", "type": "missing", "input": "the prompt"}]
            * 2
        },
        Refusal(
            None,
            "missing",
            "messages.0.role",
            "messages.0.role: m; messages.0.role: m",
            frozenset({"missing"}),
        ),
    ),
    "detail with an error": (
        {"detail": {"error": {"message": "m", "code": "c"}}},
        Refusal("c", None, None, "m", frozenset("c")),
    ),
    "message": ({"message": "m"}, Refusal(message="m")),
    "Spring": ({"status": 400, "error": "Bad Request", "message": "m"}, Refusal(message="m")),
    "list of errors": ({"errors": [{"message": "m", "code": 7}]}, Refusal("7", message="m", reasons=frozenset("7"))),
    "problem": ({"title": "t", "detail": "m", "code": "c"}, Refusal("c", None, None, "m", frozenset("c"))),
    "string": ("m", Refusal(message="m")),
    "list of strings": (["m"], Refusal(message="m")),
    "null": (None, Refusal()),
    "number": (5, Refusal()),
    "empty object": ({}, Refusal()),
    "nothing in it": ({"error": {}}, Refusal()),
    "odd members": (
        {"error": {"message": 5, "type": [], "param": {}, "code": True, "details": "x", "status": 4}},
        Refusal(),
    ),
    "code that is none": ({"error": {"message": "m", "code": "two words"}}, Refusal(message="m")),
}


@pytest.mark.parametrize(("document", "refusal"), SHAPES.values(), ids=SHAPES)
def test_shapes(document: Any, refusal: Refusal) -> None:
    """What each kind of server says, in one form."""
    assert read(document) == refusal


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"", "application/json", ""),
        (b"<html>no", "text/html", ""),
        (b"\xff", "application/json", ""),
        (b"[" * 100_000, "application/json", ""),
        (b"404 page not found\n", "text/plain; charset=utf-8", "404 page not found\n"),
        (b'\xef\xbb\xbf{"error": "m"}', "application/json", "m"),
    ],
)
def test_what_is_no_json(body: bytes, content_type: str, message: str) -> None:
    """Plain text is a message, a page is not."""
    assert read_refusal(body, content_type).message == message


NO_SUCH_MODEL = {
    "OpenAI": {
        "error": {"message": "The model `x` does not exist or you do not have access to it.", "code": "model_not_found"}
    },
    "Ollama": {"error": {"message": "model 'x' not found", "type": "api_error", "code": None}},
    "Ollama's own": {"error": 'model "x" not found, try pulling it first'},
    "vLLM": {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
    "Gemini": [
        {"error": {"code": 404, "message": "models/x is not found for API version v1main", "status": "NOT_FOUND"}}
    ],
    "OpenRouter": {"error": {"message": "x is not a valid model ID", "code": 400}},
    "OpenRouter without": {"error": {"message": "No endpoints found for x.", "code": 404}},
    "Mistral": {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
    "DeepSeek": {
        "error": {"message": "Model Not Exist", "type": "invalid_request_error", "code": "invalid_request_error"}
    },
    "Anthropic": {"type": "error", "error": {"type": "not_found_error", "message": "model: x"}},
    "Azure": {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}},
    "Together": {"error": {"message": "Unable to access model x.", "code": "model_not_available"}},
    "xAI": {
        "code": "Some requested entity was not found",
        "error": "The model x does not exist or your team has no access.",
    },
    "LiteLLM": {"error": {"message": "Invalid model name passed in model=x.", "type": "None", "code": "400"}},
    "FastAPI": {"detail": "Model x not found"},
    "Cohere": {"message": "model 'x' not found, make sure the correct model ID was used"},
    "a string": "The model x does not exist",
}


@pytest.mark.parametrize("document", NO_SUCH_MODEL.values(), ids=NO_SUCH_MODEL)
def test_no_such_model(document: Any) -> None:
    """Whatever the words for it."""
    assert read(document).is_about_the_model


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens.",
        "Unsupported parameter: 'temperature' is not supported with this model.",
        "Previous response with id 'resp_1' not found.",
        "404 page not found",
        "The model output is filtered",
    ],
)
def test_other_refusals_are_not_about_the_model(message: str) -> None:
    """Though some of them speak of it."""
    assert not read({"error": {"message": message}}).is_about_the_model


@pytest.mark.parametrize(
    ("document", "about_key"),
    [
        ([{"error": {"code": 400, "message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}}], True),
        ([{"error": {"code": 400, "message": "?", "details": [5, {"reason": "API_KEY_INVALID"}]}}], True),
        ({"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xx***yy."}, True),
        ({"error": {"code": "invalid_api_key", "message": "?"}}, True),
        ({"error": {"code": "invalid_value", "message": "Invalid value for 'temperature'."}}, False),
    ],
)
def test_what_is_about_the_key(document: Any, about_key: bool) -> None:
    """What vendors say in the place of 401."""
    assert read(document).is_about_the_key is about_key


@pytest.mark.parametrize(
    ("delay", "seconds"), [("37s", 37.0), ("1.5s", 1.5), ("x", None), (37, None), ("9" * 99 + "s", None), ("-1s", None)]
)
def test_retry_delay(delay: Any, seconds: float | None) -> None:
    """Google's way to say when to come back."""
    details = [{"@type": "type.googleapis.com/google.rpc.Help"}, {"retryDelay": delay}]
    assert read([{"error": {"code": 429, "details": details}}]).retry_seconds == seconds


SECRETS = [
    CALLER_KEY,
    "sk-proj-abc_DEF-123456",
    "sk-ant-api03-abcdef",
    "sk-****abcd",
    "Wq8+call***********7Gd4",
    "gsk_abcdefgh1234",
    "AIzaSyA-abcdefg_1234567",
    "llms_abcdefghijklmnop",
    "org-Ab12Cd34",
    "proj_Ab12Cd34",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_9",
    "Bearer anything.at-all",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["Incorrect key: {}. Look here.", "a '{}' b", '{{"key":"{}"}}', "({})", "{}"])
def test_what_looks_like_a_secret_is_scrubbed(secret: str, around: str) -> None:
    """Keys, tokens, organizations and projects, whoever's they are; what stands around them stays."""
    message = read({"error": {"message": around.format(secret)}}).scrubbed().message
    assert secret not in message
    assert "[redacted]" in message
    assert message.startswith(around.partition("{")[0])
    assert message.endswith("Look here.") == around.endswith("Look here.")


@pytest.mark.parametrize(
    "secret", ["Wq8+caller/Jd5=Hn2Vx7Gd4", 'a"b\\c/d+e f'.replace(" ", ""), "x", "ollama", "12345678"]
)
def test_the_keys_of_the_request_are_scrubbed(secret: str) -> None:
    """Whatever they look like: plain, escaped, and of a long one its beginning and its end."""
    told = f"The key {secret} is wrong; {json.dumps(secret)}. An example stays."
    scrubbed = read({"message": told}).scrubbed("", secret).message
    assert scrubbed.startswith("The key [redacted] is wrong")
    assert scrubbed.endswith("An example stays.")
    if len(secret) > 16:
        assert "Hn2Vx7Gd4" not in read({"message": "ends in …Hn2Vx7Gd4"}).scrubbed(secret).message
        assert "Wq8+call" not in read({"message": "begins Wq8+callXX"}).scrubbed(secret).message


def test_a_code_that_is_a_secret_is_left_out() -> None:
    """A key looks like a code, too."""
    members = {"message": "m", "code": CALLER_KEY, "type": "org-Ab12Cd34", "param": "llms_abcdefgh"}
    scrubbed = read({"error": members}).scrubbed(CALLER_KEY)
    assert (scrubbed.code, scrubbed.type, scrubbed.param) == (None, None, None)


def test_ordinary_words_stay() -> None:
    """What only resembles a secret is passed on."""
    told = (
        "user_message: risk-free, task-based models (gpt-4o-mini, o3) at https://platform.openai.com/docs/x?y=1 *bold*"
    )
    assert read({"error": told}).scrubbed(CALLER_KEY).message == told


def test_a_message_is_bounded_and_can_be_sent() -> None:
    """At most 2,000 characters, no control characters, no half characters; a hostile one costs little."""
    assert read({"error": "a\ud800b\x1b[31m\u202ec\nd"}).scrubbed().message == "a\ufffdb [31m c\nd"
    for text in (
        "가 " * 50_000,
        "x" * 1_000_000,
        "*" * 1_000_000,
        "model " * 100_000,
        "sk-" * 300_000,
        "Bearer " * 100_000,
    ):
        began = time.process_time()
        refusal = read({"error": text})
        assert len(refusal.scrubbed(CALLER_KEY, "x").message) <= MESSAGE_MAX_LENGTH == 2000
        assert not refusal.is_about_the_model
        assert time.process_time() - began < 0.5
