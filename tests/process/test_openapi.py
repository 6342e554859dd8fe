"""Requests made up from the specification: its limits in turn, then by chance."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from app import create_app
from app.config import Config
from tests.conftest import SERVER_KEY
from tests.streams import completion_events, message_events, response_events, stream
from tests.unit.test_openapi import COMMITTED
from tests.upstream import Received, Upstream, text

FORMS = {"/v1/audio/transcriptions"}
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES")
LINES = "/api/v1/sessions/{session_id}/import"
"""Lines of JSON are no media type of which the specification could say what is in them."""
ROUTES = [
    f"{method.upper()} {path}"
    for path, operations in json.loads(COMMITTED.read_bytes())["paths"].items()
    for method in operations
    if method != "parameters" and path != LINES
]


async def anything(received: Received, writer: asyncio.StreamWriter) -> None:
    """Answer as an upstream would that likes every request: a stream, an object, or JSON as its text."""
    is_form = received.headers.get("content-type", "").startswith("multipart/")
    asked = {} if is_form else json.loads(received.body or b"{}")
    if asked.get("stream") and received.path.partition("?")[0].endswith("/messages"):
        await stream(message_events("{}"))(received, writer)
    elif asked.get("stream") and "completions" in received.path:
        await stream(completion_events("{}"))(received, writer)
    elif asked.get("stream") and "count_tokens" not in received.path:
        await stream(response_events("{}"))(received, writer)
    else:
        await text("{}")(received, writer)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """An app with an upstream that answers anything; shared, because one schemathesis test sends many requests."""
    with Upstream() as upstream:
        upstream.default = anything
        config = Config(
            openai_api_key=SERVER_KEY,
            openai_base_url=upstream.base_url,
            database_url=f"sqlite:///{tmp_path_factory.mktemp('api')}/llm_server.db",
            system_api_public=True,
            # The client of schemathesis closes no answer, so that a large body never gives its room back.
            max_held_bytes=2**40,
        )
        yield create_app(config)


@pytest.fixture(scope="module")
def schema() -> Any:
    """The specification as schemathesis reads it, which is imported here: each pytest worker would have to wait for it,
    and again until it has thought of something for each route."""
    import schemathesis
    from schemathesis.checks import load_all_checks

    load_all_checks()
    return schemathesis.openapi.from_path(COMMITTED)


@pytest.mark.parametrize("route", ROUTES)
def test_schemathesis(schema: Any, api: Flask, route: str) -> None:
    """Whatever the specification allows is accepted, what it forbids is refused, and answers are as it says.

    SCHEMATHESIS_EXAMPLES=10000 tries as many random cases; without it the cases are the same each time.
    """
    from hypothesis import HealthCheck, settings
    from schemathesis.generation.feedback import FeedbackSources
    from schemathesis.pytest._test_builder import build_operation_test
    from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

    @settings(
        max_examples=int(EXAMPLES or 80),
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        # The values of a form have no types that could be wrong; a picture has more to it than its bytes.
        unchecked = [negative_data_rejection] if case.operation.path in FORMS else []
        unchecked += [positive_data_acceptance] if case.media_type == "image/png" else []
        # Of what is remembered more is demanded: a name that can stand in a path, a history with the first turn only.
        if isinstance(case.body, dict) and case.body.get("remember"):
            unchecked.append(positive_data_acceptance)
        case.call_and_validate(app=api, excluded_checks=unchecked)

    method, path = route.split(" ")
    operation = schema[path][method]
    # As its plugin does for `schema.parametrize()`.
    build_operation_test(
        config=schema.config, operation=operation, test_func=send, given_kwargs={}, feedback=FeedbackSources()
    )()
