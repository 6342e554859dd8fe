"""What upstream's refusals and failures mean for our caller: status and error code in, exception out.

Upstream's own text never leaves this module: of an error we keep its status, its code, the name in its `param`, its
`Retry-After`, its rate limits and its request id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from app.errors import Fields, OpenAIClientException
from app.models import ApiKey
from app.upstreams.keys import rejected_key
from app.upstreams.retry import parse_retry_after

CODE_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
PARAM_PATTERN = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
PASSED_HEADERS = re.compile(r"x-request-id|x-ratelimit-[a-z-]{1,40}", re.IGNORECASE)


def from_status(
    status: int, headers: Mapping[str, str], error: Mapping[str, Any], key: ApiKey
) -> OpenAIClientException:
    """Map an upstream answer that is not a success. `error` is its `error` object, `{}` when it had none."""
    mapped = _mapped(status, headers, error, key)
    mapped.upstream_headers = {
        name: value
        for name, value in headers.items()
        if PASSED_HEADERS.fullmatch(name) and CODE_PATTERN.fullmatch(value)
    }
    return mapped


def _mapped(status: int, headers: Mapping[str, str], error: Mapping[str, Any], key: ApiKey) -> OpenAIClientException:
    own = key.source == "default"
    code = safe_code(error.get("code")) or safe_code(error.get("type"))
    if status in {401, 403}:
        return _credentials_rejected() if own else rejected_key()
    if status == 429 and code == "insufficient_quota":
        return _quota_exhausted(own)
    if status == 429:
        wait = parse_retry_after(headers.get("retry-after")) or 1
        message = "The AI service limits the rate of requests"
        return OpenAIClientException(message, "upstream_rate_limited", retry_after=wait)
    if status in {400, 404, 422}:
        return _rejected_request(status, code, error.get("param"))
    if status in {503, 529}:
        wait = parse_retry_after(headers.get("retry-after")) or 1
        return OpenAIClientException("The AI service is overloaded", "upstream_unavailable", retry_after=wait)
    if 300 <= status < 400:
        return bad_response("The AI service answered with a redirect, which is not followed")
    return OpenAIClientException("The AI service failed to answer", "upstream_error")


def error_object(body: bytes) -> dict[str, Any]:
    """The `error` object of an upstream's refusal; `{}` when it has none that can be read."""
    try:
        document = json.loads(body.removeprefix(b"\xef\xbb\xbf").decode())
    except (ValueError, RecursionError):
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def request_id(headers: Mapping[str, str]) -> str | None:
    """Upstream's own id of a request, if it is one that a header and a log can carry."""
    value = headers.get("x-request-id", "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= 128 else None


def bad_response(message: str = "The AI service answered something that cannot be understood") -> OpenAIClientException:
    """Upstream said success, but what it sent is not an answer."""
    return OpenAIClientException(message, "upstream_bad_response")


def connection_error() -> OpenAIClientException:
    """Upstream could not be reached, or the connection broke."""
    return OpenAIClientException("The connection to the AI service failed", "upstream_connection_error")


def failed_response(error: Any) -> OpenAIClientException:
    """Upstream finished with status `failed`; its error code is passed on as `upstream_code`."""
    fields: Fields = {}
    if isinstance(error, Mapping) and (code := safe_code(error.get("code"))):
        fields["upstream_code"] = code
    return OpenAIClientException("The AI service could not complete the answer", "upstream_failed", **fields)


def safe_code(value: Any) -> str | None:
    """A code as upstream gave it, if it looks like one."""
    return value if isinstance(value, str) and CODE_PATTERN.fullmatch(value) else None


def _credentials_rejected() -> OpenAIClientException:
    return OpenAIClientException("The AI service rejected the server's API key", "server_credentials_rejected")


def _quota_exhausted(own: bool) -> OpenAIClientException:
    if own:
        return OpenAIClientException("The quota of the server's API key is used up", "server_quota_exhausted")
    return OpenAIClientException("The quota of the API key is used up", "insufficient_quota")


def _rejected_request(status: int, code: str | None, param: Any) -> OpenAIClientException:
    fields: Fields = {"status": status}
    if isinstance(param, str) and PARAM_PATTERN.fullmatch(param):
        fields["param"] = param
    if code == "model_not_found":
        return OpenAIClientException("The AI service does not know this model", "model_not_found", **fields)
    if code:
        fields["upstream_code"] = code
    return OpenAIClientException("The AI service rejected the request", "upstream_rejected_request", **fields)
