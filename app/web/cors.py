"""Cross-origin requests: which web pages may call the API, and which headers of an answer their scripts can read."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flask import Flask
from flask_cors import CORS

EXPOSED_HEADERS = [
    *("request-id", "X-Request-ID", "X-Upstream-Request-ID", "X-Cost-USD", "X-Cache", "Server-Timing"),
    *("Retry-After", "X-Should-Retry", "RateLimit", "RateLimit-Policy"),
    *("WWW-Authenticate", "Accept-Encoding", "OpenAI-Processing-Ms", "OpenAI-Version", "OpenAI-Model"),
    *(f"X-RateLimit-{figure}-{unit}" for figure in ("Limit", "Remaining", "Reset") for unit in ("Requests", "Tokens")),
    *(
        f"anthropic-ratelimit-{unit}-{figure}"
        for unit in ("requests", "tokens", "input-tokens", "output-tokens")
        for figure in ("limit", "remaining", "reset")
    ),
]
"""What a script can read beside the body. Browsers hide every header that is not named here (Fetch standard)."""
PREFLIGHT_SECONDS = 7200
"""How long a browser may remember a preflight's answer; Chromium takes no longer time than this."""


def allow_origins(app: Flask, origins: Iterable[str]) -> None:
    """Let pages of these origins call every route and read every answer, errors included.

    Each is compared as a whole. flask-cors would take a text with characters such as `[` for a regular expression, and
    `http://[::1]:3000` would allow `http://1:30000` (test_secrets.py).
    """
    exact = [re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in origins]
    CORS(app, origins=exact, expose_headers=EXPOSED_HEADERS, max_age=PREFLIGHT_SECONDS)
