"""Prints the server's address and an example request, once the server is ready."""

from __future__ import annotations

import http.client
import logging
import time

from app.config import Config
from app.process.address import host_and_port

logger = logging.getLogger(__name__)

EXAMPLE = """
LLM Server is ready at http://{address}   (documentation: http://{address}/docs)

Try it:

curl -s http://{address}/api/v1/chat -H 'Content-Type: application/json' -d '{body}'
"""
BODY = '{"user_message": "What is the capital of France?", "temperature": 0, "free_mode": true}'


def announce(config: Config, *, timeout_seconds: float = 120.0) -> None:
    """Wait until readiness answers 200, then print the address and one curl line; a JSON log gets the address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.server_host, config.server_host)
    address = host_and_port(host, config.server_port)
    give_up = time.monotonic() + timeout_seconds
    while not _is_ready(host, config.server_port):
        if time.monotonic() > give_up:
            logger.warning("still not ready after %d s; http://%s/readyz says why", timeout_seconds, address)
            return
        time.sleep(0.2)
    if config.log_format == "json":
        logger.info("ready at http://%s", address)
    else:
        print(EXAMPLE.format(address=address, body=BODY), flush=True)


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
