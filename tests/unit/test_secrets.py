"""Values keep their secrets, and the sweep finds what it looks for."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from app.config import Config
from app.models import ApiKey, ChatRequest
from tests.sweep import CALLER_KEY, CANARIES, SERVER_KEY, hits


def test_values_do_not_print_their_secrets() -> None:
    """Whoever prints a request or a key in a debugging session shows no key."""
    request = ChatRequest(user_message="hi", openai_api_key=CALLER_KEY)
    assert hits(f"{request!r} {ApiKey(SERVER_KEY, 'default')!r} {Config(openai_api_key=SERVER_KEY)!r}") == []


@pytest.mark.parametrize("canary", CANARIES)
def test_the_sweep_finds_what_it_looks_for(canary: str) -> None:
    """Each canary is found in each of its shapes, and in no other's."""
    value = CANARIES[canary]
    for shape in (
        value,
        value[-8:],
        quote(value),
        quote(value, safe=""),
        json.dumps({"a": value}),
        base64.b64encode(value.encode()).decode(),
        base64.b64encode(f"user:{value}!".encode()).decode(),
        base64.urlsafe_b64encode(f"{value}".encode()).decode(),
    ):
        assert hits(f"... {shape} ...") == [canary]
    assert hits("nothing to see") == []
