"""The specification says all that a reader needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.failures import FAILURES
from tests.server import ROOT

COMMITTED = ROOT / "openapi.json"
SPEC = json.loads(COMMITTED.read_text())
CHAT = "/api/v1/chat"

PROPERTIES = [
    pytest.param(owner, name, body, id=f"{owner}.{name}")
    for owner, described in SPEC["components"]["schemas"].items()
    for name, body in described["properties"].items()
]


@pytest.mark.parametrize(("owner", "name", "body"), PROPERTIES)
def test_every_field_is_described(owner: str, name: str, body: dict[str, Any]) -> None:
    """A field has a description and an example of its type; numbers have a range, optional request fields a default."""
    assert body["description"].endswith(".")
    if {"$ref", "allOf", "anyOf"} & set(body) or name == "response_json":
        return
    kinds = body["type"] if isinstance(body["type"], list) else [body["type"]]
    python = {"string": str, "integer": int, "number": int | float, "boolean": bool, "array": list, "object": dict}
    assert body["example"] is None or isinstance(body["example"], python[kinds[0]])
    assert body["example"] is not None or "null" in kinds
    if kinds[0] in {"integer", "number"} and (owner, name) != ("ChatResponse", "temperature"):
        assert body["minimum"] <= body["example"] <= body.get("maximum", body["example"])
    if owner != "ChatRequest":
        return
    assert "default" in body or "Default:" in body["description"] or name == "user_message"
    assert kinds[0] != "string" or {"pattern", "maxLength"} & set(body)
    assert kinds[0] not in {"integer", "number"} or "maximum" in body


def test_headers_are_described() -> None:
    """The headers that shape a chat turn, as well as the fields."""
    parameters = SPEC["paths"][CHAT]["post"]["parameters"]
    assert {parameter["name"] for parameter in parameters} == {"X-OpenAI-Api-Key", "Cache-Control", "X-Upstream"}
    for parameter in parameters:
        assert parameter["description"]
        assert "example" in parameter["schema"]


ELSEWHERE = {
    *("bad_request", "not_found", "method_not_allowed", "client_closed_request"),
    *("system_routes_private", "not_ready", "forbidden", "websocket_unsupported"),
    *("session_not_found", "session_exists", "turn_not_found", "sign_in_limited"),
}
"""Codes that no well-routed chat request gets an answer with."""


@pytest.mark.parametrize("code", sorted(FAILURES))
def test_every_error_of_chat_is_documented(code: str) -> None:
    """Each code stands under its status, with the problem as its body; and nothing else does."""
    documented = SPEC["paths"][CHAT]["post"]["responses"]
    status = str(FAILURES[code].status)
    if code in ELSEWHERE:
        assert all(f"`{code}`" not in response.get("description", "") for response in documented.values())
        return
    assert f"`{code}`" in documented[status]["description"]
    content = documented[status]["content"]["application/problem+json"]
    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert content["examples"][code] == {"$ref": f"#/components/examples/problem_{code}"}


@pytest.mark.parametrize("name", SPEC["components"]["examples"])
def test_every_error_has_an_example_of_its_own(name: str) -> None:
    """With the code's own status and words, in the shape of its routes."""
    dialect, _, code = name.partition("_")
    document = SPEC["components"]["examples"][name]["value"]
    if dialect == "openai":
        assert document["error"]["code"] == code
        return
    if dialect == "anthropic":
        assert document["error"]["details"] == {"error_code": code}
        return
    assert (document["code"], document["status"]) == (code, FAILURES[code].status)
    assert document["error_message"].startswith(FAILURES[code].told)


def test_operations_are_explained() -> None:
    """Every operation has a summary and, beside its own answers, the default problem."""
    for path, item in SPEC["paths"].items():
        for operation in (operation for method, operation in item.items() if method != "parameters"):
            assert operation["summary"], path
            assert "default" in operation["responses"]
            assert {"200", "201", "204"} & set(operation["responses"]), path
    default = SPEC["components"]["responses"]["DEFAULT_ERROR"]["content"]
    assert list(default) == ["application/problem+json"]


def test_the_page_offers_what_can_be_sent() -> None:
    """Each body has a request to try, which asks for free mode where a body can, and a token can be entered once."""
    bodies = {
        path: content["application/json"]["example"]
        for path, item in SPEC["paths"].items()
        if (operation := item.get("post"))
        if "application/json" in (content := operation["requestBody"]["content"])
    }
    assert len(bodies) == 17
    assert all(body["free_mode"] is True for path, body in bodies.items() if path.startswith(CHAT))
    assert all(body["model"] for path, body in bodies.items() if path.startswith("/v1/"))
    assert SPEC["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert {} in SPEC["security"]
