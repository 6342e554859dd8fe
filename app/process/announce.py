"""Prints the server's address and an example request, once the server is ready."""

from __future__ import annotations

import logging
import time

from app.config import Config
from app.process.address import host_and_port
from app.upstreams.local_model import DEMO
from app.upstreams.probe import answers

logger = logging.getLogger(__name__)

PROBE_SECONDS = 2.0

EXAMPLE = """
LLM Server is ready at http://{address}   (documentation: http://{address}/docs)
{notes}
Try it:

curl -s http://{address}/api/v1/chat{token} -H 'Content-Type: application/json' -d '{body}'
"""
DEMO_NOTE = """
The demo model is very small: it knows English only, and what it says is often wrong. OPENAI_API_KEY, OPENAI_BASE_URL
or LOCAL_MODEL give the server a better one.
"""
TOKEN_NOTE = """
Every caller needs a token. This command prints one, to be put in the place of TOKEN:

.venv/bin/flask --app wsgi clients add NAME
"""
TOKEN = " -H 'Authorization: Bearer TOKEN'"
BODY = '{"user_message": "What is the capital of France?", "temperature": 0, "free_mode": true}'


def announce(config: Config, *, timeout_seconds: float = 120.0) -> None:
    """Wait until readiness answers 200, then print the address and one curl line; a JSON log gets the address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.server_host, config.server_host)
    address = host_and_port(host, config.server_port)
    give_up = time.monotonic() + timeout_seconds
    while not answers(host, config.server_port, "/readyz", timeout_seconds=PROBE_SECONDS):
        if time.monotonic() > give_up:
            logger.warning("still not ready after %d s; http://%s/readyz says why", timeout_seconds, address)
            return
        time.sleep(0.2)
    if config.log_format == "json":
        logger.info("ready at http://%s", address)
    else:
        print(_example(config, address), flush=True)


def _example(config: Config, address: str) -> str:
    notes = (DEMO_NOTE if config.local_model == DEMO else "") + (TOKEN_NOTE if config.token_required else "")
    token = TOKEN if config.token_required else ""
    return EXAMPLE.format(address=address, body=BODY, notes=notes, token=token)
