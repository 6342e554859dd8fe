"""The exceptions of the service; what their error codes mean is in app/failures.py.

ServiceException
├── ValidationException      the caller sent something we cannot accept
├── ConfigurationException   a key or a setting is missing
├── OpenAIClientException    upstream could not be reached, refused, or answered badly
└── ChatServiceException     we are busy, draining, or have a bug
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from app.failures import FAILURES, Failure

ERRORS_MAX = 50
"""How many broken rules of one kind are looked for and named: a body full of them must not keep the worker busy."""


class Fields(TypedDict, total=False):
    """What an exception may say beside its message and code; see ServiceException."""

    status: int
    retry_after: int
    param: str | None
    retryable: bool
    upstream_code: str | None
    upstream_type: str | None
    upstream_message: str
    headers: Mapping[str, str]
    upstream_headers: Mapping[str, str]


class ServiceException(Exception):
    """Anything that ends a request without an answer.

    `status`, `retryable` and `retry_after` (whole seconds; set on every 429 and 503) are the code's unless given.
    `param` is upstream's name of the field that it refused; `upstream_code`, `upstream_type` and `upstream_message`
    are its own words, without secrets. `told` is the Korean sentence of a native answer. `headers` go with the answer,
    `upstream_headers` only where upstream's own are passed through. `details` are the seed's: kept as given, unused.
    """

    prefix = ""

    def __init__(
        self, message: str, error_code: str, details: Mapping[str, Any] | None = None, **fields: Unpack[Fields]
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code
        self.details = dict(details or {})
        self.status = fields.get("status", self.failure.status)
        self.retry_after = fields.get("retry_after", self.failure.retry_after)
        if self.retry_after is None and self.status in {429, 503}:
            self.retry_after = 1
        self.param = fields.get("param")
        self.retryable = fields.get("retryable", self.failure.retryable)
        self.upstream_code = fields.get("upstream_code")
        self.upstream_type = fields.get("upstream_type")
        self.upstream_message = fields.get("upstream_message", "")
        self.headers = fields.get("headers", {})
        self.upstream_headers = fields.get("upstream_headers", {})
        self.told = self.failure.told

    def explain(self, english: str, korean: str) -> None:
        """Say more than the error's code does, in both languages; a Korean sentence ends with its full stop."""
        self.message = f"{self.message}. {english}"
        self.told = f"{self.told} {korean}"

    @property
    def failure(self) -> Failure:
        """What this error's code means on the wire."""
        return FAILURES[self.error_code]

    @property
    def error_message(self) -> str:
        """The message behind the seed's Korean prefix."""
        return self.prefix + self.message


class ValidationException(ServiceException):
    """The request breaks a rule. `errors` lists every broken one by field of `location` (`json` or `headers`)."""

    prefix = "입력 데이터 오류: "

    def __init__(
        self,
        message: str,
        field: str | None = None,
        value: object = None,
        *,
        error_code: str = "validation_error",
        errors: Mapping[str, Any] | None = None,
        location: str = "json",
        **fields: Unpack[Fields],
    ) -> None:
        self.field = field
        self.value = value
        self.errors = errors or ({field: [message]} if field else {})
        self.location = location
        super().__init__(message, error_code, **fields)


class ConfigurationException(ServiceException):
    """A setting is wrong, or no key is there that could pay."""

    prefix = "시스템 설정 오류: "

    def __init__(
        self, message: str, config_key: str | None = None, *, error_code: str = "no_api_key_available"
    ) -> None:
        super().__init__(message, error_code)
        self.config_key = config_key


class OpenAIClientException(ServiceException):
    """Upstream could not be reached, refused the request, or answered badly."""

    prefix = "AI 서비스 연결 오류: "

    def __init__(
        self,
        message: str,
        error_code: str = "upstream_error",
        details: Mapping[str, Any] | None = None,
        **fields: Unpack[Fields],
    ) -> None:
        super().__init__(message, error_code, details, **fields)


class ChatServiceException(ServiceException):
    """The service itself cannot answer now, or has a bug."""

    prefix = "채팅 서비스 오류: "

    def __init__(
        self,
        message: str,
        error_code: str = "internal_error",
        details: Mapping[str, Any] | None = None,
        **fields: Unpack[Fields],
    ) -> None:
        super().__init__(message, error_code, details, **fields)
