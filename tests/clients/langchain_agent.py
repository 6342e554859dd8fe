"""langchain-openai as a client of both APIs: a tool, an object, errors, embeddings. Prints what it found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import openai
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

NAME = "gpt-4o-mini"
CUT = "The connection to the AI service failed"


class City(BaseModel):
    name: str
    people: int


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def find(*, use_responses_api: bool) -> dict[str, Any]:
    model = ChatOpenAI(model=NAME, use_responses_api=use_responses_api)
    wrong = ChatOpenAI(model=NAME, use_responses_api=use_responses_api, api_key=os.environ["WRONG_KEY"])
    return {
        "text": model.invoke("The capital of France?").text,
        "pieces": pieces(model, "The capital of France?"),
        "cut": CUT in str(raised(lambda: pieces(model, "break off"))),
        "tool": with_a_tool(model),
        "object": model.with_structured_output(City).invoke("Paris?").model_dump(),
        "refused": told(raised(lambda: wrong.invoke("hi"))),
        "too_long": told(raised(lambda: model.invoke("too long"))),
    }


def pieces(model: ChatOpenAI, text: str) -> list[str]:
    return [piece.text for piece in model.stream(text) if piece.text]


def with_a_tool(model: ChatOpenAI) -> list[str]:
    turns: list[AnyMessage] = [HumanMessage("The weather?")]
    asked = model.bind_tools([weather]).invoke(turns)
    results = [weather.invoke(call) for call in asked.tool_calls]
    answer = model.bind_tools([weather]).invoke([*turns, asked, *results])
    return [answer.text, *(result.text.removeprefix("sunny in ") for result in results)]


def raised(ask: Callable[[], object]) -> openai.APIError:
    try:
        ask()
    except openai.APIError as error:
        return error
    raise AssertionError("nothing was raised")


def told(error: openai.APIError) -> list[Any]:
    return [getattr(error, "status_code", None), error.code]


found: dict[str, Any] = {"chat": find(use_responses_api=False), "responses": find(use_responses_api=True)}
found["embedding"] = len(OpenAIEmbeddings(model=NAME, check_embedding_ctx_length=False).embed_query("Paris"))
json.dump(found, sys.stdout)
