"""bench/gateway.yaml, by which the benchmarks of others run this server: what it says, done without Docker."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import Config
from bench import wire
from tests.server import ROOT, Server
from tests.streams import completion_events, response_events, stream
from tests.upstream import Received, Upstream, reply

MANIFEST = yaml.safe_load((ROOT / "bench" / "gateway.yaml").read_text())
SERVICE, GATEWAY = MANIFEST["services"]["gateway"], MANIFEST["x-gateway"]


def environment(variables: Mapping[str, object]) -> dict[str, str]:
    """The service's, with the variables put in as Compose does."""

    def value(found: re.Match[str]) -> str:
        return str(variables.get(found[1], found[2]))

    return {name: re.sub(r"\$\{(\w+):-([^}]*)\}", value, str(text)) for name, text in SERVICE["environment"].items()}


def command(words: list[str]) -> list[str]:
    """With the Python of this environment."""
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


async def mock(received: Received, writer: asyncio.StreamWriter) -> None:
    """An upstream that has the two routes, plain and streamed."""
    answers = {"/v1/chat/completions": (wire.completion(), completion_events(wire.ANSWER))}
    answers["/v1/responses"] = (wire.response(), response_events(wire.ANSWER))
    whole, events = answers[received.path]
    await (stream(events) if received.json.get("stream") else reply(200, whole))(received, writer)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_every_route_of_the_manifest_answers(upstream: Upstream, tmp_path: Path, streamed: bool) -> None:
    """Started by its command in its environment, asked with its header and the token that its other command prints."""
    upstream.default = mock
    server = Server(tmp_path / "server", command=command(GATEWAY["command"]), ready=GATEWAY["ready"])
    variables = {"MOCK_UPSTREAM_URL": upstream.base_url, "GATEWAY_PORT": server.port}
    server.configure(environment(variables | {"STORE": f"sqlite:///{tmp_path}/bench.db"}))
    with server:
        making = command(GATEWAY["token"])
        made = subprocess.run(making, cwd=ROOT, env=server.environ, capture_output=True, text=True, check=True)
        headers = {name: text.replace("${TOKEN}", made.stdout.strip()) for name, text in GATEWAY["headers"].items()}
        asked = [
            server.request("POST", route["path"], route["body"] | ({"stream": True} if streamed else {}), headers)
            for route in GATEWAY["routes"]
        ]
        assert [answer.status for answer in asked] == [200] * 3
        assert all(wire.ANSWER in answer.body.decode() for answer in asked)
        assert [each.key for each in upstream.received] == ["sk-mock"] * 3
        # Without the token there would be no client, and the ledger would have less to do.
        refused = server.request("POST", GATEWAY["routes"][0]["path"], GATEWAY["routes"][0]["body"])
        assert refused.status == 401


def test_the_manifest_fits_the_image() -> None:
    """What only Docker does is not run here: at least the command is the image's, its name compose.yaml's."""
    image = (ROOT / "Dockerfile").read_text()
    assert json.loads(re.findall(r"^CMD (.*)$", image, re.MULTILINE)[-1]) == GATEWAY["command"]
    usual: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["llm-server"]
    assert SERVICE["image"] == usual["image"]
    assert ((ROOT / "bench" / SERVICE["build"]).resolve() / "Dockerfile").exists()


def test_the_manifest_sets_what_there_is() -> None:
    """Every name is a setting, every variable may be left out, and the comment shows the same command as `token`."""
    assert {name.lower() for name in SERVICE["environment"]} <= set(Config.__dataclass_fields__)
    assert not [text for text in environment({}).values() if "$" in text]
    assert f"exec -T gateway {shlex.join(GATEWAY['token'])})" in (ROOT / "bench" / "gateway.yaml").read_text()
