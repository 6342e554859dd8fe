"""pydantic-ai as a client of both APIs: text, a stream, a tool, an object in two ways, errors. Prints what it found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

NAME = "gpt-4o-mini"
CUT = "The connection to the AI service failed"


class City(BaseModel):
    name: str
    people: int


def find(kind: type[OpenAIChatModel] | type[OpenAIResponsesModel]) -> dict[str, Any]:
    model = kind(NAME)
    wrong = kind(NAME, provider=OpenAIProvider(api_key=os.environ["WRONG_KEY"]))
    agent, called = Agent(model), []

    @agent.tool_plain
    def weather(city: str) -> str:
        called.append(city)
        return "sunny"

    return {
        "text": Agent(model).run_sync("The capital of France?").output,
        "pieces": pieces(model, "The capital of France?"),
        "cut": CUT in str(raised(lambda: pieces(model, "break off"))),
        "tool": [agent.run_sync("The weather?").output, *called],
        "object": Agent(model, output_type=NativeOutput(City)).run_sync("Paris?").output.model_dump(),
        "object by a tool": Agent(model, output_type=City).run_sync("Paris?").output.model_dump(),
        "refused": told(raised(lambda: Agent(wrong).run_sync("hi"))),
        "too_long": told(raised(lambda: Agent(model).run_sync("too long"))),
    }


def pieces(model: OpenAIChatModel | OpenAIResponsesModel, text: str) -> list[str]:
    return list(Agent(model).run_stream_sync(text).stream_text(delta=True, debounce_by=None))


def raised(ask: Callable[[], object]) -> ModelHTTPError:
    try:
        ask()
    except ModelHTTPError as error:
        return error
    raise AssertionError("nothing was raised")


def told(error: ModelHTTPError) -> list[Any]:
    return [error.status_code, error.body["code"] if isinstance(error.body, dict) else None]


json.dump({"chat": find(OpenAIChatModel), "responses": find(OpenAIResponsesModel)}, sys.stdout)
