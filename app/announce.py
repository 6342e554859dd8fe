"""Says on standard output, once the server is ready, where it is and what to paste."""

from __future__ import annotations

import http.client
import time

from app.config import Config

EXAMPLE = """
LLM Server is ready at http://{address}   (documentation: http://{address}/docs)

Try it:

curl -s http://{address}/api/v1/chat -H 'Content-Type: application/json' -d '{body}'
"""
BODY = '{"user_message": "What is the capital of France?", "temperature": 0, "free_mode": true}'


def announce(config: Config, *, patience_seconds: float = 120.0) -> None:
    """Wait until readiness answers 200, then print the address and one curl line."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.server_host, config.server_host)
    give_up = time.monotonic() + patience_seconds
    while time.monotonic() < give_up:
        if _is_ready(host, config.server_port):
            address = f"[{host}]:{config.server_port}" if ":" in host else f"{host}:{config.server_port}"
            print(EXAMPLE.format(address=address, body=BODY), flush=True)
            return
        time.sleep(0.2)


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
