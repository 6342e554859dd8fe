"""Anthropic's Python SDK as a program uses it: only base URL and key are changed. Prints what it found."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import anthropic

MODEL = os.environ["MODEL"]
ASKED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": int(os.environ["MAX_TOKENS"]),
    "extra_body": {"temperature": 0},
    "system": "You are a helpful assistant.",
    "messages": [{"role": "user", "content": "Tell me a long story of a dog."}],
}


def plain(client: anthropic.Anthropic) -> dict[str, Any]:
    """A whole answer."""
    message = client.messages.create(**ASKED)
    text = "".join(block.text for block in message.content if block.type == "text")
    usage = [message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0), message.usage.output_tokens]
    return {"text": text, "reason": message.stop_reason, "usage": usage, "request_id": message._request_id}


def streamed(client: anthropic.Anthropic) -> dict[str, Any]:
    """The events of a stream."""
    events = list(client.messages.create(**ASKED, stream=True))
    pieces = [event.delta.text for event in events if event.type == "content_block_delta"]
    ended = [event for event in events if event.type == "message_delta"]
    return {
        "text": "".join(pieces),
        "pieces": len(pieces),
        "types": [events[0].type, events[-1].type],
        "usage": ended[-1].usage.output_tokens,
    }


def helped(client: anthropic.Anthropic) -> dict[str, Any]:
    """The stream helper, which joins the events again; by the beta API as Claude Code asks, with `?beta=true`."""
    with client.beta.messages.stream(**ASKED, betas=["interleaved-thinking-2025-05-14"]) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    return {"text": text, "same": text == message.content[0].text, "reason": message.stop_reason}


async def at_once() -> list[str]:
    """The asynchronous client, two requests at a time."""
    async with anthropic.AsyncAnthropic() as client:
        answers = await asyncio.gather(client.messages.create(**ASKED), client.messages.create(**ASKED))
        return [answer.content[0].text for answer in answers]


def refusals() -> dict[str, Any]:
    """The classes that the SDK raises."""
    found = {}
    wrong = {"api_key": os.environ["WRONG_KEY"], "max_retries": 0}
    asked = {
        "a wrong token": lambda: anthropic.Anthropic(**wrong).messages.create(**ASKED),
        "no such route": lambda: anthropic.Anthropic().messages.batches.list(),
        "too long": lambda: anthropic.Anthropic().messages.create(**ASKED | {"system": "word " * 20000}),
        "too long, streamed": lambda: list(
            anthropic.Anthropic().messages.create(**ASKED | {"system": "word " * 20000}, stream=True)
        ),
    }
    for name, ask in asked.items():
        try:
            ask()
        except anthropic.APIStatusError as error:
            found[name] = [type(error).__name__, error.type, error.error_code, bool(error.request_id)]
    return found


def main() -> None:
    """Ask in all ways."""
    with anthropic.Anthropic() as client:
        count = client.messages.count_tokens(model=MODEL, system=ASKED["system"], messages=ASKED["messages"])
        found = {"count": count.input_tokens, "plain": plain(client), "streamed": streamed(client)}
        found |= {"helped": helped(client)}
    with anthropic.Anthropic(api_key=None, auth_token=os.environ["ANTHROPIC_API_KEY"]) as client:
        found["bearer"] = plain(client)["text"]
    print(json.dumps(found | {"at once": asyncio.run(at_once()), "refusals": refusals()}))


main()
