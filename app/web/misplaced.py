"""A key or token where the server does not read it: the 401 says so, and never repeats what was sent."""

from __future__ import annotations

from werkzeug import Request

from app.errors import ServiceException
from app.models import TOKEN_PREFIX

FOREIGN_HEADERS = ("api-key", "x-api-key", "x-goog-api-key")
"""Where Azure, Anthropic and Google expect a key."""
UNAUTHENTICATED = {"api_key_required", "unauthorized"}


def explain_misplaced(error: ServiceException, asked: Request, key_header: str = "") -> None:
    """Add to a 401 that misses a key or a token where the caller put one in vain; where it belongs the 401 says.

    `key_header` is the one that the route reads.
    """
    if error.error_code not in UNAUTHENTICATED:
        return
    scheme, _, credential = asked.headers.get("Authorization", "").strip().partition(" ")
    bearer = scheme.lower() == "bearer"
    has_token = bearer and credential.strip().startswith(TOKEN_PREFIX)
    key_missing = error.error_code == "api_key_required"
    if has_token and not key_missing:
        return
    if name := next((name for name in FOREIGN_HEADERS if name != key_header and asked.headers.get(name)), None):
        error.explain(f"The header {name} is not read", f"{name} 헤더는 읽지 않습니다.")
    elif scheme and not bearer:
        error.explain(
            "The header Authorization has to begin with Bearer and a space",
            "Authorization 헤더는 Bearer와 공백으로 시작해야 합니다.",
        )
    elif key_missing and key_header:
        error.explain(f"The header {key_header} carries it as well", f"{key_header} 헤더로 보내도 됩니다.")
    elif credential and key_missing and not has_token:
        error.explain(
            "On this route Authorization carries a token of this server only",
            "이 경로의 Authorization 헤더에는 이 서버의 토큰만 넣습니다.",
        )
