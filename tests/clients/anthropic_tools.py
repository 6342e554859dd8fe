"""Anthropic's Python SDK: text, a stream, tools in three ways, errors. Prints what it found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import anthropic
from anthropic import beta_tool

MODEL = os.environ["MODEL"]
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 100}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def user(text: str) -> list[Any]:
    """A conversation that begins so."""
    return [{"role": "user", "content": text}]


def with_tool(ask: Callable[..., Any]) -> list[str]:
    """The answer after a tool was called, and what it was called with."""
    messages, called = user("The weather?"), []
    while True:
        answer = ask(**ASKED, tools=[WEATHER], messages=messages)
        if answer.stop_reason != "tool_use":
            return [answer.content[0].text, *called]
        (call,) = answer.content
        called.append(call.input["city"])
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]


def by_a_runner(client: anthropic.Anthropic) -> list[str]:
    """The same, by the SDK's own loop, which has the server keep the conversation."""
    called: list[str] = []

    @beta_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return "sunny"

    runner = client.beta.messages.tool_runner(**ASKED, tools=[weather], messages=user("The weather?"))
    answer = runner.until_done()
    return [answer.content[0].text, *called]


def find(client: anthropic.Anthropic) -> dict[str, Any]:
    """What the SDK makes of each answer."""

    def streamed(**asked: Any) -> Any:
        with client.messages.stream(**asked) as stream:
            return stream.get_final_message()

    def pieces(text: str) -> list[str]:
        with client.messages.stream(**ASKED, messages=user(text)) as stream:
            return list(stream.text_stream)

    plain = client.messages.create(**ASKED, messages=user("The capital of France?"))
    wrong = anthropic.Anthropic(api_key=os.environ["WRONG_KEY"])
    return {
        "text": plain.content[0].text,
        "usage": [plain.usage.input_tokens, plain.usage.output_tokens],
        "pieces": pieces("The capital of France?"),
        "count": client.messages.count_tokens(model=MODEL, messages=user("hi")).input_tokens,
        "tool": [with_tool(client.messages.create), with_tool(streamed), by_a_runner(client)],
        "cut": raised(lambda: pieces("break off")),
        "refused": raised(lambda: wrong.messages.create(**ASKED, messages=user("hi"))),
        "too_long": raised(lambda: client.messages.create(**ASKED, messages=user("too long"))),
        "too_long, streamed": raised(lambda: pieces("too long")),
    }


def raised(ask: Callable[[], object]) -> list[Any]:
    """The class, its status, and the kind of error that it tells."""
    try:
        ask()
    except anthropic.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.type]
    raise AssertionError("nothing was raised")


with anthropic.Anthropic() as found_by:
    print(json.dumps(find(found_by)))
