"""What upstream's refusals and failures mean for our caller: status and error document in, exception out.

A 4xx stays a 4xx: the request has to change, or its key. Upstream's words for it are kept, scrubbed of secrets. Of
other answers only the status, `Retry-After`, the rate limits and the request id are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.errors import Fields, OpenAIClientException
from app.models import ApiKey
from app.upstreams.answer_headers import passed_headers
from app.upstreams.keys import rejected_key
from app.upstreams.refusals import CODE_PATTERN, Refusal, word_or_none

UNAVAILABLE = "The AI service is overloaded or still starting"
KEPT_STATUSES = frozenset({400, 404, 413, 422})
"""What of upstream's 4xx a caller can act on; others say 400, as a caller's program may know no better than to repeat
408 and 409."""
MISDIRECTED_STATUSES = frozenset({407, 421, 426})
"""These are about the way to upstream, as redirects are: the operator's to mend."""
HOPELESS_STATUSES = frozenset({501, 505})
HOPELESS_CODES = re.compile(r"(?:invalid|unsupported|content|context|image|empty_image|failed_to_download)_.*")
"""Codes of a failed answer (OpenAI's API reference, "Responses", `error.code`) that the same request has again."""


def from_status(
    status: int, headers: Mapping[str, str], refusal: Refusal, key: ApiKey, wait_seconds: int
) -> OpenAIClientException:
    """Map an upstream answer that is not a success. `refusal` is its error document, scrubbed."""
    error = _mapped(status, refusal, wait_seconds, own=key.source == "default")
    error.upstream_headers = {
        name: value
        for name, value in passed_headers(headers, key).items()
        if CODE_PATTERN.fullmatch(value) and name.lower() != "retry-after"
    }
    if 400 <= status < 500 and error.status < 500:
        # What upstream says of the server's own key and account is not for callers: those are answered 503.
        error.param, error.upstream_message = refusal.param, refusal.message
        error.upstream_code, error.upstream_type = refusal.code, refusal.type
    return error


def _mapped(status: int, refusal: Refusal, wait_seconds: int, *, own: bool) -> OpenAIClientException:
    if status == 401 or (status == 400 and refusal.is_about_the_key):
        return _credentials_rejected() if own else rejected_key()
    if status == 402 or (status in {400, 429} and refusal.is_about_the_quota):
        return _quota_exhausted(own)
    if status == 403:
        return OpenAIClientException("The AI service does not permit this request", "upstream_forbidden")
    if status == 429:
        message = "The AI service limits the rate of requests"
        return OpenAIClientException(message, "upstream_rate_limited", retry_after=wait_seconds)
    if 300 <= status < 400 or status in MISDIRECTED_STATUSES:
        message = "The AI service answered with a redirect, which is not followed"
        return OpenAIClientException(message, "upstream_bad_response", retryable=False)
    if 400 <= status < 500:
        return _rejected_request(status if status in KEPT_STATUSES else 400, refusal)
    if status in {503, 529}:
        return OpenAIClientException(UNAVAILABLE, "upstream_unavailable", retry_after=wait_seconds)
    return OpenAIClientException(
        "The AI service failed to answer", "upstream_error", retryable=status not in HOPELESS_STATUSES
    )


def request_id(headers: Mapping[str, str]) -> str | None:
    """Upstream's own id of a request, if it is one that a header and a log can carry."""
    value = headers.get("x-request-id") or headers.get("request-id", "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= 128 else None


def bad_response(message: str = "The AI service answered something that cannot be understood") -> OpenAIClientException:
    """Upstream said success, but what it sent is not an answer."""
    return OpenAIClientException(message, "upstream_bad_response")


def no_text(finish_reason: str) -> OpenAIClientException:
    """Upstream finished without a text. Where its limit was the reason, the same request would end the same way."""
    if finish_reason == "length":
        message = "The model reached max_tokens before it wrote any text; a larger max_tokens is needed"
        return OpenAIClientException(message, "max_tokens_too_small")
    return bad_response("The AI service answered without any text")


def connection_error(*, retryable: bool = True) -> OpenAIClientException:
    """Upstream could not be reached, or the connection broke. What is wrong with its certificate stays wrong."""
    message = "The connection to the AI service failed"
    return OpenAIClientException(message, "upstream_connection_error", retryable=retryable)


def no_first_byte() -> OpenAIClientException:
    """Upstream said nothing for as long as it may."""
    return OpenAIClientException("The AI service did not answer in time", "upstream_timeout")


def failed_response(error: Any) -> OpenAIClientException:
    """Upstream finished with status `failed`; its error code is passed on as `upstream_code`."""
    fields: Fields = {}
    if isinstance(error, Mapping) and (code := Refusal(word_or_none(error.get("code"))).scrubbed().code):
        fields["upstream_code"] = code
        fields["retryable"] = HOPELESS_CODES.fullmatch(code) is None
    return OpenAIClientException("The AI service could not complete the answer", "upstream_failed", **fields)


def told_failure(document: Mapping[str, Any]) -> OpenAIClientException | None:
    """The failure that an answer or an event tells of, whatever its HTTP status; None where it tells of none."""
    answer = document.get("response")
    told = answer if isinstance(answer, dict) else document
    is_error = bool(document.get("error")) or document.get("type") == "error"
    if not is_error and told.get("status") not in ("failed", "cancelled"):
        return None
    return failed_response(document.get("error") or told.get("error") or document)


def _credentials_rejected() -> OpenAIClientException:
    return OpenAIClientException("The AI service rejected the server's API key", "server_credentials_rejected")


def _quota_exhausted(own: bool) -> OpenAIClientException:
    if own:
        return OpenAIClientException("The quota of the server's API key is used up", "server_quota_exhausted")
    return OpenAIClientException("The quota of the API key is used up", "insufficient_quota")


def _rejected_request(status: int, refusal: Refusal) -> OpenAIClientException:
    if refusal.is_about_the_model:
        return OpenAIClientException("The AI service does not know this model", "model_not_found", status=status)
    return OpenAIClientException("The AI service rejected the request", "upstream_rejected_request", status=status)
