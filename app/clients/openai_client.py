"""OpenAIClient: the one way from this server to an OpenAI-compatible upstream, and the only module that says openai."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI

from app.call import Call, Watchdog, current_call
from app.clients import retry
from app.clients.responses_api import parse_response, request_body
from app.clients.transport import PooledTransport, ResponseTooLarge, ResponseUnreadable
from app.clients.upstream_errors import bad_response, connection_error, from_status
from app.config import Config
from app.errors import OpenAIClientException, ServiceException
from app.models import ApiKey, Message, UpstreamResponse
from app.services.keys import KeySelector, is_well_formed
from app.services.limiter import Slots

logger = logging.getLogger(__name__)

UNREAD_BODY = {"X-Stainless-Raw-Response": "stream"}
"""Tells the SDK to hand the body over unread; the transport keeps it from upstream."""


class _SDK(OpenAI):
    """The SDK without the headers it takes from the process's environment: they would travel with a caller's key."""

    @property
    def default_headers(self) -> dict[str, Any]:
        return {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": self.user_agent,
            **self.platform_headers(),
        }


class Reply:
    """Upstream's answer to one call: headers are here, the body is read from it. Closing gives the slot back."""

    def __init__(self, response: httpx2.Response, call: Call, resources: contextlib.ExitStack) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self._call = call
        self._resources = resources

    def read(self) -> bytes:
        """The whole body; raises OpenAIClientException when it cannot be had."""
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        began = time.monotonic()
        try:
            with _translated(self._call):
                yield from self._response.iter_bytes()
        finally:
            self._call.upstream_seconds += time.monotonic() - began

    def close(self) -> None:
        """Close the connection if the body was not read to its end, and give the slot back."""
        self._response.close()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenAIClient:
    """Talks to upstream with one SDK client and one connection pool per worker: create it after the fork."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        keys: KeySelector | None = None,
        slots: Slots | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        config = config or Config.from_env()
        self._config = config
        self.keys = keys or KeySelector(config.openai_api_key)
        self.slots = slots or Slots(config.max_concurrent_requests, config.max_queue_seconds)
        self._watchdog = watchdog or Watchdog()
        self._server_headers = {
            name: value
            for name, value in [
                ("OpenAI-Organization", config.openai_org_id),
                ("OpenAI-Project", config.openai_project_id),
            ]
            if value
        }
        self._sdk = _SDK(
            api_key=config.openai_api_key or "no-key-set",
            base_url=config.openai_base_url,
            max_retries=0,
            http_client=httpx2.Client(
                transport=PooledTransport(config.max_concurrent_requests),
                base_url=config.openai_base_url,
                timeout=None,
                trust_env=False,
                follow_redirects=False,
            ),
        )
        # The SDK forks `uname` for its platform headers once; done here, no burst of first calls forks many.
        _ = self._sdk.default_headers

    def generate_response(
        self,
        messages: Sequence[Message],
        api_key: str | None = None,
        free_mode: bool = False,
        model: str | None = None,
        instructions: str = "",
        max_tokens: int | None = None,
        temperature: float | None = None,
        *,
        call: Call | None = None,
    ) -> tuple[UpstreamResponse, float, str]:
        """Send `messages` to the Responses API; give the answer, the seconds it took and the key's source.

        Raises ServiceException subclasses, by docs/api, "Errors".
        """
        call = call or Call(self._config.request_timeout)
        began = time.monotonic()
        body = request_body(
            messages,
            model=model or self._config.default_model,
            instructions=instructions,
            max_tokens=self._config.default_max_tokens if max_tokens is None else max_tokens,
            temperature=self._config.default_temperature if temperature is None else temperature,
        )
        reply, key = self.send("/responses", body, call, api_key=api_key, free_mode=free_mode)
        with reply:
            response = parse_response(reply.read())
        call.input_tokens, call.output_tokens = response.usage.input_tokens, response.usage.output_tokens
        return response, time.monotonic() - began, key.source

    def send(self, path: str, body: bytes, call: Call, *, api_key: str | None, free_mode: bool) -> tuple[Reply, ApiKey]:
        """Take a slot, choose the key, call upstream with retries; the slot is held until the reply is closed."""
        # A request that no key may pay for is refused at once: it must not wait for a slot first.
        self._select_api_key(api_key, free_mode)
        with contextlib.ExitStack() as resources:
            resources.enter_context(self._watchdog.watching(call))
            self.slots.acquire(call)
            resources.callback(self.slots.release)
            response, key = self.keys.pay(api_key, free_mode, lambda key: self._with_retries(path, body, key, call))
            held = resources.pop_all()
        call.upstream_request_id = _request_id(response)
        call.api_key_source = key.source
        return Reply(response, call, held), key

    def close(self) -> None:
        """Close the pool."""
        self._sdk.close()

    def _select_api_key(self, api_key: str | None = None, free_mode: bool = False) -> tuple[str, str]:
        """The key that is tried first and its source; raises when none may be."""
        key = self.keys.select(api_key, free_mode)
        return key.secret, key.source

    def _validate_api_key(self, api_key: str) -> bool:
        """Tell whether a key is well-formed. Whether upstream accepts it shows when it is used: nothing probes."""
        return is_well_formed(api_key)

    def _with_retries(self, path: str, body: bytes, key: ApiKey, call: Call) -> httpx2.Response:
        attempt = 0
        while True:
            try:
                return self._post(path, body, key, call)
            except _Retriable as failure:
                if attempt >= failure.max_retries or not self._paused(failure, attempt, call):
                    raise failure.error from failure.__cause__
            attempt += 1

    def _paused(self, failure: _Retriable, attempt: int, call: Call) -> bool:
        """Wait before the next attempt; False when the wait would not fit into the deadline."""
        pause = retry.backoff_seconds(attempt) if failure.pause_seconds is None else failure.pause_seconds
        if pause >= call.remaining_seconds():
            return False
        logger.warning("upstream %s, trying again in %.2f s", failure.error.error_code, pause)
        call.wait(pause)
        call.check()
        return True

    def _post(self, path: str, body: bytes, key: ApiKey, call: Call) -> httpx2.Response:
        headers = UNREAD_BODY | (self._server_headers if key.source == "default" else {})
        began = time.monotonic()
        token = current_call.set(call)
        try:
            call.remaining_seconds()
            with _translated(call):
                return self._sdk.with_options(api_key=key.secret).post(
                    path, content=body, cast_to=httpx2.Response, options={"headers": headers}
                )
        except APIStatusError as exc:
            call.upstream_request_id = _request_id(exc.response)
            error = from_status(exc.status_code, exc.response.headers, _error_object(exc), key)
            if error.error_code == "server_credentials_rejected":
                logger.error("upstream rejects the server's key (HTTP %d); check OPENAI_API_KEY", exc.status_code)
            raise _retriable(error, exc.status_code) from exc
        finally:
            current_call.reset(token)
            call.upstream_seconds += time.monotonic() - began


class _Retriable(Exception):
    """Carries an error that another attempt may cure, how many attempts, and the pause upstream asked for."""

    def __init__(self, error: ServiceException, max_retries: int, pause_seconds: float | None = None) -> None:
        super().__init__(error.error_code)
        self.error = error
        self.max_retries = max_retries
        self.pause_seconds = pause_seconds


def _retriable(error: OpenAIClientException, status: int) -> Exception:
    if error.error_code == "upstream_rate_limited":
        return _Retriable(error, retry.MAX_RATE_LIMIT_RETRIES, error.retry_after)
    if status in retry.RETRIED_STATUSES:
        return _Retriable(error, retry.MAX_RETRIES)
    return error


@contextlib.contextmanager
def _translated(call: Call) -> Iterator[None]:
    """Turn what the SDK and the transport raise into our exceptions; the end of the call explains a cut connection."""
    try:
        yield
    except APIStatusError:
        raise
    except (ResponseTooLarge, ResponseUnreadable) as exc:
        raise bad_response() from exc
    except (APIConnectionError, httpx2.HTTPError) as exc:
        if isinstance(exc, APITimeoutError | httpx2.TimeoutException):
            call.end("deadline")
        call.remaining_seconds()
        cause = exc.__cause__ if isinstance(exc, APIConnectionError) else exc
        if isinstance(cause, httpx2.ConnectError):
            raise _Retriable(connection_error(), retry.MAX_RETRIES) from exc
        raise connection_error() from exc


def _error_object(exc: APIStatusError) -> dict[str, Any]:
    return exc.body if isinstance(exc.body, dict) else {}


def _request_id(response: httpx2.Response) -> str | None:
    value = response.headers.get("x-request-id", "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= 128 else None
